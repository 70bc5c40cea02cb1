"""What wavetune says while it works: lines of the logger `wavetune`, shown on a console and kept in a run's folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wavetune.console import Console
from wavetune.errors import ConfigError, nearest

LOG = logging.getLogger("wavetune")
VARIABLE = "WAVETUNE_LOG"
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_WAITING = 200  # lines that are kept for a folder that does not hold a run yet


class ConsoleHandler(logging.Handler):
    """Shows lines on a console, above a live display where one runs there."""

    def __init__(self, console: Console, level: int = logging.INFO) -> None:
        super().__init__(level)
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line; a console that cannot be written to any more is no reason to stop."""
        try:
            self.console.print(self.format(record), highlight=False, markup=False, soft_wrap=True)
        except OSError:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Nothing: there is no place left to tell it."""


class RunFileHandler(logging.Handler):
    """Adds lines with their time to a file, as soon as its folder holds a run; what came before waits."""

    def __init__(self, path: Path) -> None:
        super().__init__(logging.INFO)
        self.path, self.waiting = path, list[str]()
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Keep or write one line; a disk without room is told of by what needs it more."""
        self.waiting = [*self.waiting[-_WAITING:], self.format(record) + "\n"]
        try:
            if (self.path.parent / "recipe.json").exists():
                with open(self.path, "a", encoding="utf-8", opener=_not_waiting) as file:
                    file.writelines(self.waiting)
                self.waiting.clear()
        except OSError:
            pass


def _not_waiting(path: str, flags: int) -> int:
    """A file to write to; a pipe without a reader is an OSError."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)


def level_of(quiet: bool, verbose: bool) -> int:
    """The level that options, or else the environment, ask for. Raises ConfigError for a name that is none."""
    if quiet and verbose:
        raise ConfigError("--quiet and --verbose exclude each other; give one of them")
    if quiet or verbose:
        return logging.WARNING if quiet else logging.DEBUG
    name = os.environ.get(VARIABLE, "info")
    if name.lower() not in LEVELS:
        raise ConfigError(f"{VARIABLE} is {name!r}; {nearest(name.lower(), LEVELS)}")
    return LEVELS[name.lower()]


@contextmanager
def shown_on(console: Console, level: int | None = None) -> Iterator[None]:
    """Lines of this level on go to the console in this block, and to no other; None: as before, else from info on."""
    others = [handler for handler in LOG.handlers if isinstance(handler, ConsoleHandler)]
    if level is None:
        level = min((other.level for other in others), default=logging.INFO)
    with _only(ConsoleHandler(console, level), others):
        yield


@contextmanager
def kept_in(folder: Path) -> Iterator[None]:
    """Lines of this block are also added to `log.txt` of a run's folder."""
    with _only(RunFileHandler(folder / "log.txt"), []):
        yield


def is_quiet() -> bool:
    """Whether the console was asked to show no more than warnings."""
    levels = [handler.level for handler in LOG.handlers if isinstance(handler, ConsoleHandler)]
    return bool(levels) and min(levels) > logging.INFO


@contextmanager
def _only(handler: logging.Handler, others: list[ConsoleHandler]) -> Iterator[None]:
    before = LOG.level
    for other in others:
        LOG.removeHandler(other)
    LOG.addHandler(handler)
    LOG.setLevel(min(handler.level, before or logging.INFO, logging.INFO))
    try:
        yield
    finally:
        LOG.removeHandler(handler)
        for other in others:
            LOG.addHandler(other)
        LOG.setLevel(before)
