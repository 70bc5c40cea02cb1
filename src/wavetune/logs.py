"""What wavetune says while it works: lines of the logger `wavetune`, shown on a console and kept in a run's folder."""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from wavetune.console import Console
from wavetune.errors import ConfigError, nearest

LOG = logging.getLogger("wavetune")
VARIABLE = "WAVETUNE_LOG"
FORMAT_VARIABLE = "WAVETUNE_LOG_FORMAT"
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_WAITING = 200  # lines that are kept for a folder that does not hold a run yet


class JsonLines(logging.Formatter):
    """A line of JSON for each record: time, level, process, message, what was given as `extra`, a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        told = {
            "time": at,
            "level": record.levelname.lower(),
            "process": record.process,
            "message": record.getMessage(),
        }
        told |= {name: value for name, value in vars(record).items() if name not in _OF_EVERY_RECORD}
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(told, default=str)


_OF_EVERY_RECORD = {*vars(logging.makeLogRecord({})), "message", "asctime"}
FORMATS = {"text": logging.Formatter, "json": JsonLines}


class ConsoleHandler(logging.Handler):
    """Shows lines on a console, above a live display where one runs there."""

    def __init__(self, console: Console, level: int = logging.INFO) -> None:
        super().__init__(level)
        self.console = console
        self.setFormatter(FORMATS.get(os.environ.get(FORMAT_VARIABLE, ""), logging.Formatter)())

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
    """A file to write to; a link, or a pipe without a reader, is an OSError."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0), 0o666)


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


def format_of(name: str | None) -> str:
    """How lines are written: as the option says, else the environment. Raises ConfigError for a name that is none."""
    name = name or os.environ.get(FORMAT_VARIABLE, "text")
    if name not in FORMATS:
        raise ConfigError(
            f"the format of log lines is {name!r} (--log-format, {FORMAT_VARIABLE}); {nearest(name, FORMATS)}"
        )
    return name


def is_for_people() -> bool:
    """Whether the console shows lines for people, so that progress may move among them."""
    return not any(isinstance(handler.formatter, JsonLines) for handler in LOG.handlers)


@contextmanager
def shown_on(console: Console, level: int | None = None) -> Iterator[None]:
    """Lines of this level on go to the console in this block, and to no other; None: as before, else from info on."""
    others = [handler for handler in LOG.handlers if isinstance(handler, ConsoleHandler)]
    if level is None:
        level = min((other.level for other in others), default=logging.INFO)
    handler = ConsoleHandler(console, level)
    if others:
        handler.setFormatter(others[-1].formatter)
    with _only(handler, others):
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
