"""The phases of a run, one after the other: one loop runs, records, saves and continues the rounds of all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from wavetune.errors import RunFolderError
from wavetune.federation.memory import give_back_free_heap
from wavetune.federation.run_folder import RunFolder
from wavetune.records.fields import as_json

Tensors = Mapping[str, Tensor]


class Phase:
    """So many rounds of one kind, wherever the clients are.

    Their records are lines of the file `records`, of which a continued run needs what the type `record` names.
    """

    records: ClassVar[str]
    record: ClassVar[Any] = dict[str, Any]

    @property
    def rounds(self) -> int:
        """How many rounds there are."""
        raise NotImplementedError

    def begin(self, done: int, saved: Tensors) -> None:
        """Make ready for the rounds after the first `done`, given the newest checkpoint."""

    def round(self, index: int) -> Any:
        """The record of a round, once it is done."""
        raise NotImplementedError

    def show(self, record: Any) -> None:
        """Tell who watches that a round is done and saved."""

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint holds of the phase beside the session."""
        return {}

    def summary(self) -> dict[str, Any]:
        """The phase's fields of the run's summary, once all rounds are done."""
        return {}


def play(
    phases: Sequence[Phase], folder: RunFolder, done: int, saved: Tensors, every: int, state: Callable[[], Tensors]
) -> None:
    """Run what is left of the phases after the first `done` rounds of them all, as a checkpoint counts them.

    Records after the checkpoint are dropped, their rounds run again. A checkpoint is written after `every` so many
    rounds of a phase and after its last: the session's `state`, and what this phase and those before have beside it.
    Raises RunFolderError where a round that is done has no record.
    """
    before, begun = 0, list[Phase]()
    for phase in phases:
        own = min(max(done - before, 0), phase.rounds)
        found = len(folder.read_rounds(phase.records, phase.record))
        if found < own:
            raise RunFolderError(
                f"{folder.path} has a checkpoint of round {own} but {found} round records in {phase.records}"
            )
        folder.keep_rounds(own, phase.records)
        phase.begin(own, saved)
        begun.append(phase)
        for index in range(own, phase.rounds):
            record = phase.round(index)
            give_back_free_heap()
            folder.append_round(as_json(record), phase.records)
            if index + 1 == phase.rounds or (index + 1) % every == 0:
                own_states = {name: t for one in begun for name, t in one.state().items()}
                folder.save_checkpoint(before + index + 1, {**state(), **own_states})
            phase.show(record)
        before += phase.rounds
