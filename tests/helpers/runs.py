"""Small whole runs on the tiny model, and what must be equal between two runs of one recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from wavetune import recipes
from wavetune.recipe import Recipe, with_settings
from wavetune.records.fields import as_json
from wavetune.runtimes.inprocess import run
from wavetune.runtimes.outcome import RoundOutcome

SMALL = (
    'world.model="tiny"',
    "world.data.train_samples=60",
    "world.data.validation_samples=4",
    "world.data.max_tokens=48",
    "world.data.batching.batch_size=2",
    "world.scenario.population.num_clients=3",
    "world.scenario.bands.main.num_subchannels=6",
    "world.scenario.bands.fed.num_subchannels=6",
    "run.rounds=2",
    "run.local_steps=2",
    "run.samples=0",
    "run.sample_tokens=4",
    "run.precision=fp32",
    "run.device=cpu",
)
WIDE = ("world.scenario.bands.main.num_subchannels=20", "world.scenario.bands.fed.num_subchannels=20")
"""The usual bands, for tests of what their many subchannels allow; to plan them takes most of a small run."""
PAPER = ("world.scenario.preset=paper", "world.data.max_tokens=96", *WIDE)
"""For tests whose seconds, joules and bits a second are those of the papers' ideal links."""
EXACT = ("run.precision=fp64", "method.adapter_codec.kind=fp64")
"""Sums that are put together in another order then differ in the last digits of fp64, on whatever processor."""
WALL_CLOCK = {"wall_s", "tokens_per_s", "peak_memory_bytes", "command", "started", "ended", "commit"}
"""What may differ between two runs of the same; of the commit a process says nothing where git takes too long."""


REWARDS = Path(__file__).with_name("simple_rewards.py")
ALIGNED = (
    "method.bottleneck.width=4",
    'method.sharing.shared=["bottleneck"]',
    "method.lora.rank=2",
    "world.data.source=concierge",
    "world.data.max_tokens=128",
    "method.alignment.learning.steps=2",
    "method.alignment.learning.prompts_per_step=4",
    "method.alignment.learning.objective.kind=ppo",
    "method.alignment.learning.objective.answers_per_prompt=2",
    "method.alignment.learning.max_prompt_tokens=64",
    "method.alignment.learning.max_new_tokens=4",
    "method.alignment.held_out_prompts=4",
    "method.alignment.helpful.kind=python",
    f"method.alignment.helpful.function={REWARDS}:vowels",
    "method.alignment.safe.kind=python",
    f"method.alignment.safe.function={REWARDS}:capitals",
)

EMBEDDED = tuple(
    f"method.alignment.safe.training.{setting}"
    for setting in ("model=tiny-bert", "steps=1", "evaluate_every=1", "validation_pairs=4", "test_pairs=4")
)
ANSWERING = (
    *ALIGNED,
    "run.rounds=1",
    "run.local_steps=1",
    "method.lora.rank=[2,4,1]",
    "method.exchange.kind=hierarchical",
    "method.alignment.learning.prompts_per_step=2",
    "method.alignment.learning.max_new_tokens=12",
    "method.alignment.learning.objective.epochs=1",
    "method.alignment.safe.kind=embedded",
    "method.alignment.safe.preference=harmless",
    *EMBEDDED,
)
"""Alignment of clients of unequal ranks, in which a token that is drawn otherwise leads to other rewards."""


class Silent:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.records: list[Any] = []

    def message(self, text: str) -> None:
        self.messages.append(text)

    def started(self, session: Any, rounds_done: int, before: float) -> None:
        self.session, self.rounds_done = session, rounds_done

    def step(self, *_: Any) -> None:
        pass

    def round(self, record: Any) -> None:
        self.records.append(record)

    def aligned(self, record: Any, steps: int) -> None:
        self.records.append(record)


def small(name: str = "sflllm", *settings: str) -> Recipe:
    """A recipe cut down to a second."""
    return with_settings(recipes.get(name), [*SMALL, *settings])


def train(recipe: Recipe, out: Path, resume: bool = False) -> Any:
    return run(recipe, out, Silent(), resume)


def told(outcome: RoundOutcome) -> dict[str, Any]:
    """The record of a round, without an evaluation, as a file has it."""
    return as_json(outcome.record())


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_rounds(folder: Path, name: str = "rounds.jsonl") -> list[dict[str, Any]]:
    path = folder / name
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def count_rounds(folder: Path, name: str = "rounds.jsonl") -> int:
    """How many lines of records a run that goes on has written, without one that it has begun."""
    path = folder / name
    return path.read_text(encoding="utf-8").count("\n") if path.exists() else 0


def without_clock(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in WALL_CLOCK}


def lasting(folder: Path) -> dict[str, Any]:
    """All that a run leaves behind and that does not tell the time: files as bytes, records as values."""
    newest = max((folder / "checkpoints").iterdir(), key=lambda path: path.name)
    found: dict[str, Any] = {
        str(path.relative_to(folder)): path.read_bytes()
        for part in (folder / "adapters", newest)
        for path in sorted(part.rglob("*"))
        if path.is_file()
    }
    for name in ("recipe.json", "world.json", "instance.json", "plan.json", "samples.json"):
        found[name] = read_json(folder / name)
    found["state.json"] = without_clock(read_json(folder / "state.json"))
    found["summary.json"] = without_clock(read_json(folder / "summary.json"))
    found["rounds.jsonl"] = [without_clock(record) for record in read_rounds(folder)]
    for name in ("alignment_before.json", "alignment_after.json"):
        if (folder / name).exists():
            found[name] = read_json(folder / name)
    found["alignment.jsonl"] = [without_clock(record) for record in read_rounds(folder, "alignment.jsonl")]
    return found


def assert_same_run(found: Path, wanted: Path) -> None:
    """Both folders hold the same files with the same content; names the first that differs."""
    mine, theirs = lasting(found), lasting(wanted)
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        assert mine[name] == value, f"{name} differs"
