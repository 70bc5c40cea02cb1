"""The commands that the README and the pages print, and what a command makes of its arguments."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import typer

from wavetune.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "docs").rglob("*.ipynb")),
]
GROUP = typer.main.get_command(app)
_COMMAND = re.compile(r"(?:\$ )?(?:[A-Z_]+=\S+ )*(wavetune|python (?:\w+/)\w+\.py|make)(?: (.*))?", re.DOTALL)
_FENCE = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```[ ]*$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Printed:
    page: str
    program: str
    arguments: tuple[str, ...]
    in_prose: bool
    into: str = ""  # the file that its output is written to


def text_of(page: Path) -> str:
    """A page's Markdown; of a notebook that between its cells of code."""
    text = page.read_text(encoding="utf-8")
    if page.suffix != ".ipynb":
        return text
    cells = (cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown")
    return "\n\n".join("".join(cell["source"]) for cell in cells)


def printed() -> Iterator[Printed]:
    """Each command with where it stands: in fences of shell, and between backticks in prose."""
    for page in PAGES:
        text, where = text_of(page), page.relative_to(ROOT).as_posix()
        fences = [fence for language, fence in _FENCE.findall(text) if language in ("", "bash", "sh", "console")]
        lines = [line for fence in fences for line in fence.replace("\\\n", " ").splitlines()]
        prose = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", _FENCE.sub("", text))]
        for command, in_prose in (*((line, False) for line in lines), *((code, True) for code in prose)):
            found = _COMMAND.fullmatch(command.strip())
            if found and (found[2] or found[1].startswith("python")):
                words, *shells = re.split(r" (?:2?>|&&|\|) ", found[2] or "")  # what is behind is the shell's
                into = shells[0] if " > " in (found[2] or "") else ""
                arguments = shlex.split(re.sub(r"\bN\b", "3", words), comments=True)
                yield Printed(where, found[1], tuple(arguments), in_prose, into)


def parsed(arguments: Sequence[str]) -> dict[str, Any]:
    """Find a command of wavetune and parse its arguments into its parameters; raises a usage error."""
    with click.Context(GROUP, info_name="wavetune") as context:
        if arguments[0].startswith("-"):  # not parsed, as the shell's completion would be installed at once
            if arguments[0] not in {name for option in GROUP.get_params(context) for name in option.opts}:
                raise click.NoSuchOption(arguments[0])
            return {}
        name, command, rest = GROUP.resolve_command(context, list(arguments))
        rest = [word for word in rest if word != "--help"]  # which would print it
        return command.make_context(name, rest, parent=context, resilient_parsing=len(rest) < len(arguments) - 1).params


def options_of(command: str) -> set[str]:
    """Names of the options that a command of wavetune takes."""
    return {name for option in GROUP.commands[command].params for name in option.opts}
