"""What trains a run, and who watches it: this process, workers or devices stand behind the same few calls."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from wavetune.federation.cohort import StepResult
from wavetune.records.alignment import AlignmentStep
from wavetune.records.rounds import Round
from wavetune.runtimes.alignment.here import Align, begin
from wavetune.runtimes.outcome import RoundOutcome
from wavetune.runtimes.round import StepDone
from wavetune.runtimes.session import Session


class Observer(Protocol):
    """What watches a run: progress on a terminal, a log, a test."""

    def message(self, text: str) -> None:
        """Something worth a line happened."""

    def started(self, session: Session, rounds_done: int, before: float) -> None:
        """Everything is loaded and planned."""

    def step(self, round_index: int, step: int, result: StepResult) -> None:
        """A local step is done."""

    def round(self, record: Round) -> None:
        """A round is done and saved."""

    def aligned(self, record: AlignmentStep, steps: int) -> None:
        """A step of alignment, of so many, is done and saved."""


TrainRound = Callable[[Session, int, StepDone, Callable[[], None] | None], RoundOutcome]


@dataclass(frozen=True)
class Trainer:
    """What trains the rounds of a session, and aligns its clients: in this process, where nothing else is named."""

    train_round: TrainRound
    align: Align = begin


Engine = Callable[[Session, Callable[[str], None]], AbstractContextManager[Trainer]]
"""What gives a session its trainer; it may exchange the session's parts for ones whose other half is elsewhere."""
