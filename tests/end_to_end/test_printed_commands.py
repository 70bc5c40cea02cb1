"""Every command that the README or a page prints is one that exists, with options that it takes."""

import argparse
import re
import shlex

import click
import pytest

from end_to_end.test_benchmarks import benchmark
from helpers.printed_commands import ROOT, parsed, printed


class ReadAllError(Exception):
    pass


def test_pages_print_commands():
    programs = {command.program for command in printed()}
    assert {"wavetune", "make"} <= programs
    assert any(program.startswith("python benchmarks/") for program in programs)


def test_commands_of_wavetune_exist_and_take_these_arguments():
    wrong = []
    for command in printed():
        if command.program == "wavetune" and command.arguments[0] != "COMMAND":
            try:
                parsed(command.arguments)
            except click.UsageError as error:  # prose names a command with what matters there
                if not (isinstance(error, click.MissingParameter) and command.in_prose):
                    wrong.append(f"{command.page}: wavetune {shlex.join(command.arguments)}: {error}")
    assert not wrong, "\n".join(wrong)


def test_benchmarks_exist_and_take_these_arguments(monkeypatch):
    parse_args = argparse.ArgumentParser.parse_args

    def read_all(parser, *given):
        parse_args(parser, *given)
        raise ReadAllError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", read_all)
    for command in printed():
        script = ROOT / command.program.removeprefix("python ")
        if script.suffix == ".py":
            assert script.exists(), f"{command.page}: {command.program}"
        if script.parent.name == "benchmarks":
            with pytest.raises(ReadAllError):
                benchmark(script.stem).main(list(command.arguments))


def test_targets_of_make_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^(\w+):", makefile, re.MULTILINE))
    wrong = [
        f"{command.page}: make {command.arguments[0]}"
        for command in printed()
        if command.program == "make" and command.arguments[0] not in targets
    ]
    assert not wrong
