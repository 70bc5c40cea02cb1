"""The phases of a run, one after the other: one loop runs, records, saves and continues the rounds of all of them."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from wavetune.errors import ConfigError
from wavetune.federation.memory import give_back_free_heap
from wavetune.federation.phases import Phase, PhasePart
from wavetune.federation.run_folder import RunFolder, part_of
from wavetune.records.fields import as_json
from wavetune.runtimes.session import Session

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class UnderWay:
    """A run, as the further phases of its method see it."""

    session: Session
    folder: RunFolder
    say: Callable[[str], None]


def declared(parts: Sequence[PhasePart], running: UnderWay, before: Sequence[Phase]) -> list[Phase]:
    """The further phases of a method. Raises ConfigError where two of a run's phases write one file, and as they do."""
    found = [part.phase(running) for part in parts]
    for name, count in Counter(phase.records for phase in (*before, *found)).items():
        if count > 1:
            raise ConfigError(
                f"method.phases has {count} phases that write their records into {name}; let each name its own file"
            )
    return found


def recorded(phases: Sequence[Phase], folder: RunFolder) -> int:
    """How many rounds of the phases, one after the other, have a record."""
    count = 0
    for phase in phases:
        found = min(len(folder.read_rounds(phase.records, phase.record)), phase.rounds)
        count += found
        if found < phase.rounds:
            break
    return count


def play(
    phases: Sequence[Phase], folder: RunFolder, done: int, saved: Tensors, every: int, state: Callable[[], Tensors]
) -> None:
    """Run what is left of the phases after the first `done` rounds of them all, as a checkpoint counts them.

    Records after the checkpoint are dropped, their rounds run again. A checkpoint is written after `every` so many
    rounds of a phase and after its last: the session's `state`, and what this phase and those before have beside it,
    named after their files of records.
    """
    before, begun = 0, list[Phase]()
    for phase in phases:
        own = min(max(done - before, 0), phase.rounds)
        folder.keep_rounds(own, phase.records)
        phase.begin(own, part_of(saved, f"{phase.records}|"))
        begun.append(phase)
        for index in range(own, phase.rounds):
            record = phase.round(index)
            give_back_free_heap()
            folder.append_round(as_json(record), phase.records)
            if index + 1 == phase.rounds or (index + 1) % every == 0:
                own_states = {f"{one.records}|{key}": t for one in begun for key, t in one.state().items()}
                folder.save_checkpoint(before + index + 1, {**state(), **own_states})
            phase.show(record)
        before += phase.rounds
