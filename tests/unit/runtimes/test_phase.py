"""One loop runs the rounds of all phases of a run: recorded, saved and continued wherever it was stopped."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from wavetune.federation.phases import Phase
from wavetune.federation.run_folder import RunFolder
from wavetune.runtimes.phase import play, recorded

ROUNDS = {"first": 3, "none": 0, "last": 4}


@dataclass
class Counting(Phase):
    """A phase whose rounds add to a sum that is the session's, and to a count of its own."""

    name: str
    count: int
    session: dict[str, int]
    stops_at: int | None = None
    own: int = 0
    shown: list[int] = field(default_factory=list[int])

    def __post_init__(self) -> None:
        self.records = f"{self.name}.jsonl"

    @property
    def rounds(self) -> int:
        return self.count

    def begin(self, done: int, saved: Any) -> None:
        self.own = int(saved.get(self.name, torch.tensor(0)))
        assert self.own == done

    def round(self, index: int) -> dict[str, int]:
        if index == self.stops_at:
            raise KeyboardInterrupt
        self.session["sum"] += 10 * self.session["sum"] + index
        self.own += 1
        return {"index": index, "sum": self.session["sum"]}

    def state(self) -> dict[str, torch.Tensor]:
        return {self.name: torch.tensor(self.own)}

    def show(self, record: dict[str, int]) -> None:
        self.shown.append(record["index"])


def run(folder: RunFolder, every: int = 1, stops: tuple[str, int] | None = None) -> list[Counting]:
    """Run or continue three phases; the session's sum is a checkpoint's."""
    session = {"sum": 1}
    phases = [Counting(n, r, session, stops[1] if stops and n == stops[0] else None) for n, r in ROUNDS.items()]
    checkpoint = folder.load_checkpoint(recorded=recorded(phases, folder))
    done, saved = (0, {}) if checkpoint is None else checkpoint
    session["sum"] = int(saved.get("sum", torch.tensor(1)))
    play(phases, folder, done, saved, every, lambda: {"sum": torch.tensor(session["sum"])})
    return phases


def left(folder: RunFolder) -> list[Any]:
    return [folder.read_rounds(f"{name}.jsonl") for name in ROUNDS]


@pytest.fixture
def whole(tmp_path):
    folder = RunFolder.create(tmp_path / "whole")
    run(folder)
    return folder


def shown(phases: Sequence[Counting]) -> list[list[int]]:
    return [phase.shown for phase in phases]


@pytest.mark.parametrize("every", [1, 2, 9])
@pytest.mark.parametrize("stops", [("first", 0), ("first", 2), ("last", 0), ("last", 3)])
def test_a_run_that_was_stopped_in_any_phase_ends_with_the_records_of_one_that_was_not(tmp_path, whole, stops, every):
    folder = RunFolder.create(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        run(folder, every, stops)
    run(folder, every)
    assert left(folder) == left(whole)
    assert [[record["index"] for record in records] for records in left(folder)] == [[0, 1, 2], [], [0, 1, 2, 3]]


def test_a_checkpoint_counts_the_rounds_of_all_phases_and_stands_at_the_end_of_each(tmp_path):
    folder = RunFolder.create(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        run(folder, every=9, stops=("last", 0))
    assert [path.name for path in sorted((tmp_path / "run" / "checkpoints").iterdir())] == ["round-000003"]
    assert shown(run(folder, every=9)) == [[], [], [0, 1, 2, 3]]
    assert shown(run(folder, every=9)) == [[], [], []]


@pytest.mark.parametrize("lines", [0, 2, 3])
@pytest.mark.parametrize("phase", ["first", "last"])
def test_a_checkpoint_whose_rounds_have_no_records_is_passed_over_in_whichever_phase(whole, phase, lines):
    wanted, path = left(whole), whole.path / f"{phase}.jsonl"
    path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:lines]), encoding="utf-8")
    run(whole)
    assert left(whole) == wanted
