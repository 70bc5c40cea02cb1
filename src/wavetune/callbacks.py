"""What may follow a run beside who shows it: callbacks, of which one that fails is left out and never stops the run."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavetune.logs import LOG

if TYPE_CHECKING:
    from wavetune.federation.cohort import StepResult
    from wavetune.records.alignment import AlignmentStep
    from wavetune.records.rounds import Round
    from wavetune.runtimes.engine import Observer
    from wavetune.runtimes.session import Session

_LONGEST = 300  # characters of a failure that are told


class Callback:
    """Follows a run: override what you want to hear of. A plain function of one record does as well."""

    def started(self, folder: Path, recipe: Mapping[str, Any], rounds_done: int) -> None:
        """All is loaded and planned; the folder holds recipe.json and plan.json. `rounds_done` are not run again."""

    def round(self, record: Round) -> None:
        """A round is done and saved."""

    def aligned(self, record: AlignmentStep) -> None:
        """A step of alignment is done and saved."""

    def finished(self, folder: Path, summary: Mapping[str, Any]) -> None:
        """The run is finished, its summary and report are written."""

    def closed(self) -> None:
        """Nothing follows, whether the run finished or not."""


class OfFunction(Callback):
    """A function that is called with each record."""

    def __init__(self, function: Callable[[Any], object]) -> None:
        self.function = function

    def round(self, record: Round) -> None:
        """Hand it on."""
        self.function(record)

    def aligned(self, record: AlignmentStep) -> None:
        """Hand it on."""
        self.function(record)


class Watched:
    """Observer of a run that tells its display, and then each callback; one that raises hears no more."""

    def __init__(self, folder: Path, display: Observer | None, callbacks: Sequence[Callback]) -> None:
        self.folder, self.display, self.callbacks = folder, display, list(callbacks)

    def message(self, text: str) -> None:
        """A line on what happens now."""
        if self.display is None:
            LOG.info(text)
        else:
            self.display.message(text)

    def started(self, session: Session, rounds_done: int, before: float) -> None:
        """All is loaded and planned."""

        if self.display is not None:
            self.display.started(session, rounds_done, before)
        self._tell("started", self.folder, session.recipe.to_dict(), rounds_done)

    def step(self, round_index: int, step: int, result: StepResult) -> None:
        """A local step is done; of interest for a display alone."""
        if self.display is not None:
            self.display.step(round_index, step, result)

    def round(self, record: Round) -> None:
        """A round is done and saved."""
        if self.display is not None:
            self.display.round(record)
        self._tell("round", record)

    def aligned(self, record: AlignmentStep, steps: int) -> None:
        """A step of alignment is done and saved."""
        if self.display is not None:
            self.display.aligned(record, steps)
        self._tell("aligned", record)

    def finished(self, summary: Mapping[str, Any]) -> None:
        """The summary and the report are written."""
        self._tell("finished", self.folder, summary)

    def closed(self) -> None:
        """The run is over, or was stopped."""
        self._tell("closed")

    def _tell(self, event: str, *what: Any) -> None:
        for callback in tuple(self.callbacks):
            try:
                getattr(callback, event)(*what)
            except Exception as error:  # whatever their code raises
                self.callbacks.remove(callback)
                LOG.warning(f"{name_of(callback)} is left out from here on, the run goes on: {told(error)}")


def name_of(callback: Callback) -> str:
    """What a callback is called where it fails."""
    if isinstance(callback, OfFunction):
        return f"the callback {getattr(callback.function, '__qualname__', callback.function)}"
    return getattr(callback, "title", f"the callback {type(callback).__qualname__}")


def told(error: BaseException) -> str:
    """A failure in one line that names no password, key or token."""
    line = " ".join(f"{type(error).__name__}: {error}".split())
    return without_secrets(line)[:_LONGEST]


def without_secrets(text: str) -> str:
    """The text without what stands before @ in an address, and without the values of secret environment variables.

    >>> without_secrets("cannot reach https://me:word@host/x?token=abc")
    'cannot reach https://***@host/x?token=***'
    """
    text = re.sub(r"(?<=://)[^/\s@]+(?=@)", "***", text)
    text = re.sub(r"(?i)((?:api_?key|token|secret|password)=)[^&\s'\"]+", r"\1***", text)
    for name, value in os.environ.items():
        if len(value) > 5 and re.search("KEY|TOKEN|SECRET|PASSWORD", name):
            text = text.replace(value, "***")
    return text
