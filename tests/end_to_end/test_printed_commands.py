"""Every command that the README or a page prints is one that exists, with options that it takes."""

import argparse
import re
import shlex
from pathlib import Path

import click
import pytest
import typer

from end_to_end.test_benchmarks import benchmark
from wavetune.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMAND = re.compile(r"(?:\$ )?(?:[A-Z_]+=\S+ )*(wavetune|python (?:\w+/)\w+\.py|make)(?: (.*))?", re.DOTALL)


def printed():
    """Where each command stands, its program and its arguments: in fences of shell, and between backticks in prose."""
    for page in PAGES:
        text, where = page.read_text(encoding="utf-8"), page.relative_to(ROOT).as_posix()
        fences = re.findall(r"^```(?:bash|sh|console|)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        lines = [line for fence in fences for line in fence.replace("\\\n", " ").splitlines()]
        prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
        for command in (*lines, *(" ".join(c.split()) for c in re.findall(r"`([^`]+)`", prose))):
            found = COMMAND.fullmatch(command.strip())
            if found and (found[2] or found[1].startswith("python")):
                words = re.split(r" (?:2?>|&&|\|) ", found[2] or "")[0]  # what is behind is the shell's
                yield where, found[1], shlex.split(re.sub(r"\bN\b", "3", words), comments=True)


def parsed(group, arguments):
    """Find a command and parse its arguments; raises a usage error. In prose a bare name stands for the command."""
    with click.Context(group, info_name="wavetune") as context:
        if arguments[0].startswith("-"):  # not parsed, as the shell's completion would be installed at once
            if arguments[0] not in {name for option in group.get_params(context) for name in option.opts}:
                raise click.NoSuchOption(arguments[0])
            return
        name, command, rest = group.resolve_command(context, list(arguments))
        if rest:
            command.make_context(name, list(rest), parent=context)


class ReadAllError(Exception):
    pass


def test_pages_print_commands():
    programs = {program for _, program, _ in printed()}
    assert {"wavetune", "make"} <= programs
    assert any(program.startswith("python benchmarks/") for program in programs)


def test_commands_of_wavetune_exist_and_take_these_arguments():
    group, wrong = typer.main.get_command(app), []
    for page, program, arguments in printed():
        if program == "wavetune" and arguments and arguments[0] != "COMMAND":
            try:
                parsed(group, arguments)
            except click.exceptions.Exit:  # after --help
                pass
            except click.UsageError as error:
                if not isinstance(error, click.MissingParameter):  # prose names a command with what matters there
                    wrong.append(f"{page}: wavetune {shlex.join(arguments)}: {error}")
    assert not wrong, "\n".join(wrong)


def test_benchmarks_exist_and_take_these_arguments(monkeypatch):
    parse_args = argparse.ArgumentParser.parse_args

    def read_all(parser, *given):
        parse_args(parser, *given)
        raise ReadAllError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", read_all)
    for page, program, arguments in printed():
        script = ROOT / program.removeprefix("python ")
        if script.suffix == ".py":
            assert script.exists(), f"{page}: {program}"
        if script.parent.name == "benchmarks":
            with pytest.raises(ReadAllError):
                benchmark(script.stem).main(arguments)


def test_targets_of_make_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^(\w+):", makefile, re.MULTILINE))
    wrong = [
        f"{page}: make {words[0]}"
        for page, program, words in printed()
        if program == "make" and words[0] not in targets
    ]
    assert not wrong
