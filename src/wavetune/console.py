"""Text of others on a terminal: what would steer the terminal is shown instead of sent."""

import os
import re
import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import rich.console
from rich.console import ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Table

_WIDEST = 10_000  # columns
# C0 and C1 controls but line feed and tab, line and paragraph separators, bidirectional overrides, lone surrogates
_STEERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    r"""The text with every character that steers a terminal written as its escape; line feeds and tabs stay.

    >>> visible("\x1b[31mred\u202e\n")
    '\\x1b[31mred\\u202e\n'
    """
    return _STEERS.sub(lambda found: _escape(found[0]), text)


def steers(text: str) -> bool:
    """Whether `visible` would change the text."""
    return _STEERS.search(text) is not None


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


class Console(rich.console.Console):
    """Rich's console, on which no text steers the terminal: only Rich's own styles do."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Segments of what is printed, their text made visible."""
        for segment in super().render(renderable, options):
            if segment.control or not steers(segment.text):
                yield segment
            else:
                yield Segment(visible(segment.text), segment.style)

    def print_table(self, table: Table) -> None:
        """A table with all of its cells whole, wherever it is read: where a line is too narrow, it goes on below."""
        before = self.width
        self.width = max(before, Measurement.get(self, self.options.update(width=_WIDEST), table).maximum)
        try:
            self.print(table, crop=False)
        finally:
            self.width = before


def echo(text: str) -> None:
    """Write a line to standard output, with nothing in it that steers a terminal."""
    print(visible(text), flush=True)


def echo_answer(text: str) -> None:
    """Write a model's answer: to a terminal with nothing in it that steers it, to a file or pipe as it is."""
    if sys.stdout.isatty():
        echo(text)
    else:
        print(text.encode(errors="replace").decode(), flush=True)


COMMAND = "WAVETUNE_COMMAND"
"""Environment variable by which a command tells the processes that it starts what its user gave."""


_command: ContextVar[str] = ContextVar("the command that runs in this process", default="")


@contextmanager
def as_command() -> Iterator[None]:
    """What is written in this block was done by the command line, with the arguments of this process."""
    token = _command.set(shlex.join(["wavetune", *sys.argv[1:]]))
    try:
        yield
    finally:
        _command.reset(token)


def given_command() -> str:
    """The command that a user gave, in this process or in the one that started it; of a script how it was started."""
    return os.environ.get(COMMAND) or _command.get() or shlex.join(["python", *sys.argv])
