"""Phases: a run is one after the other, federated tuning first; a method may have further ones. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from wavetune.federation.run_folder import RunFolder
from wavetune.guarded import Checks, guard, returning
from wavetune.parts import Part

if TYPE_CHECKING:
    from torch import Tensor


class Phase:
    """So many rounds of one kind, wherever the clients are.

    Their records are lines of the file `records`, of which a continued run needs what the type `record` names.
    """

    records: ClassVar[str]
    record: ClassVar[Any] = dict[str, Any]

    def __init_subclass__(cls) -> None:
        guard(cls, f"{cls.__module__}:{cls.__qualname__}")

    @property
    def rounds(self) -> int:
        """How many rounds there are."""
        raise NotImplementedError

    def begin(self, done: int, saved: Mapping[str, Tensor]) -> None:
        """Make ready for the rounds after the first `done`, given what the newest checkpoint holds of the phase."""

    def round(self, index: int) -> Any:
        """The record of a round, once it is done."""
        raise NotImplementedError

    def show(self, record: Any) -> None:
        """Tell who watches that a round is done and saved."""

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint holds of the phase beside the session."""
        return {}

    def summary(self) -> dict[str, Any]:
        """What the phase came to, for the run's summary, once all its rounds are done: numbers by name."""
        return {}


class Running(Protocol):
    """A run under way, as a phase of it sees it."""

    @property
    def session(self) -> Any:
        """The `wavetune.runtimes.session.Session`: recipe, model, data, cohort, what servers hold."""
        ...

    @property
    def folder(self) -> RunFolder:
        """Where the run is written."""
        ...

    @property
    def say(self) -> Any:
        """Who is told, in sentences, what goes on."""
        ...


class PhasePart(Part):
    """A phase that a method has after the federated rounds and, where it has one, local alignment.

    Its rounds take place where the run's process is. Where clients are devices, these have no part in it.
    """

    checks: ClassVar[Checks] = {"phase": returning(Phase, "a Phase")}

    def phase(self, running: Running) -> Phase:
        """The phase in a run under way. Raises ConfigError, before anything is trained, where it cannot be done."""
        raise NotImplementedError
