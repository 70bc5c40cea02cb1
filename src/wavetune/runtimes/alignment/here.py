"""Alignment of clients in this process: all of a simulated run, or the one of a device.

Legend: K clients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from wavetune.federation.alignment import Alignment, Client, ClientPairs, Model, Rewards
from wavetune.federation.cohort import Cohort
from wavetune.federation.run_folder import part_of
from wavetune.records.alignment import AlignmentMeasured, ByName, HeldOut
from wavetune.records.rounds import Lost
from wavetune.runtimes.alignment.task import Task, pairs_of, rewards_of
from wavetune.runtimes.rewards import Say
from wavetune.runtimes.session import Session

_STATE, _METRIC = "alignment.", "aligned."


@dataclass(frozen=True)
class Step:
    """What clients tell of a step: how it went for each, by name, and the scores of held-out prompts where asked for.

    Where clients are on devices: who did not take it and why, and how long it took the others.
    """

    metrics: ByName = field(default_factory=ByName)
    evaluation: HeldOut | None = None
    lost: tuple[Lost, ...] | None = None
    measured: AlignmentMeasured = field(default_factory=AlignmentMeasured)


class Work(Protocol):
    """The steps that clients take on their own task, wherever they are."""

    def advance(self, steps: int, evaluate: bool) -> Step:
        """Have so many steps done in all; the last one and, if asked for, the scores of held-out prompts after it."""
        ...

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint holds of the work beside the adapters."""
        ...


Align = Callable[[Session, Task, Path, Mapping[str, Tensor], Say], Work]
"""What begins the work of a session's clients, given a folder for rewards, a checkpoint, and who is told of it."""


@dataclass
class Here:
    """The work of some clients of a task in this process."""

    task: Task
    clients: Sequence[int]
    alignment: Alignment
    metrics: ByName = field(default_factory=ByName)  # of the last step

    def advance(self, steps: int, evaluate: bool) -> Step:
        """Take the steps that are missing; the last one and, if asked for, the scores of held-out prompts after it."""
        while self.alignment.steps_done < steps:
            self.metrics = {name: tuple(row_K.tolist()) for name, row_K in self.alignment.step().items()}
        if not evaluate:
            return Step(self.metrics)
        own, foreign = ([part[k] for k in self.clients] for part in (self.task.own, self.task.foreign))
        return Step(self.metrics, self.alignment.evaluate(own, foreign if self.task.asked_foreign else None))

    def state(self) -> dict[str, Tensor]:
        """The state of the alignment, and the last step's metrics."""
        told = {
            f"{_METRIC}{name}": torch.tensor(values_K, dtype=torch.float64) for name, values_K in self.metrics.items()
        }
        return told | {f"{_STATE}{name}": tensor for name, tensor in self.alignment.state().items()}

    def load_state(self, saved: Mapping[str, Tensor]) -> None:
        """Continue from a checkpoint; from the start if it has no state of an alignment."""
        if own := part_of(saved, _STATE):
            self.alignment.load_state(own)
        self.metrics = {name: tuple(values_K.tolist()) for name, values_K in part_of(saved, _METRIC).items()}


def begin(session: Session, task: Task, folder: Path, saved: Mapping[str, Tensor], say: Say) -> Here:
    """The work of all of a session's clients, from where a checkpoint left it. Raises as the parts do."""
    rewards = rewards_of(task, folder, session.cohort.backbone.device, say)
    return work_of(task, range(session.cohort.placement.num_clients), session.cohort, rewards, saved)


def work_of(task: Task, clients: Sequence[int], cohort: Cohort, rewards: Rewards, saved: Mapping[str, Tensor]) -> Here:
    """The work of the clients that a cohort holds, in its order, from where a checkpoint left it."""
    read, seed, learning = task.recipe.world.data, task.recipe.run.seed, task.settings.learning
    from_pairs = learning.objective.learns_from == "pairs"
    pairs = dict(zip(clients, pairs_of(task.data, clients, read, seed), strict=True)) if from_pairs else {}
    model = Model(cohort.backbone, cohort.bank, task.tokenizer, read.template, tokens_per_pass=cohort.tokens_per_pass)
    own = [Client(k, task.lambdas[k], task.prompts[k], pairs.get(k, ClientPairs())) for k in clients]
    work = Here(task, clients, Alignment(model, own, rewards, learning, seed))
    work.load_state(saved)
    return work
