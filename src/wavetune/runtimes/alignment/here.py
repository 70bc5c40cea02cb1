"""Alignment of clients in this process: all of a simulated run, those of a worker, or the one of a device.

Legend: K clients.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from wavetune.federation.alignment import Alignment, Model, Rewards
from wavetune.federation.cohort import Cohort
from wavetune.federation.run_folder import fits, part_of
from wavetune.recipe import Recipe
from wavetune.records.alignment import AlignmentMeasured, ByName, HeldOut
from wavetune.records.rounds import Lost
from wavetune.runtimes.alignment.task import Share, Task, rewards_of, share_of
from wavetune.runtimes.rewards import Say
from wavetune.runtimes.session import Session

STATE, METRIC = "alignment.", "aligned."


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

    share: Share
    alignment: Alignment
    metrics: ByName = field(default_factory=ByName)  # of the last step

    def advance(self, steps: int, evaluate: bool) -> Step:
        """Take the steps that are missing; the last one and, if asked for, the scores of held-out prompts after it."""
        while self.alignment.steps_done < steps:
            self.metrics = {name: tuple(row_K.tolist()) for name, row_K in self.alignment.step().items()}
        if not evaluate:
            return Step(self.metrics)
        return Step(self.metrics, self.alignment.evaluate(self.share.own, self.share.foreign or None))

    def state(self) -> dict[str, Tensor]:
        """The state of the alignment, and the last step's metrics."""
        told = {
            f"{METRIC}{name}": torch.tensor(values_K, dtype=torch.float64) for name, values_K in self.metrics.items()
        }
        return told | {f"{STATE}{name}": tensor for name, tensor in self.alignment.state().items()}

    def load_state(self, saved: Mapping[str, Tensor]) -> None:
        """Continue from a checkpoint; from the start if it has no state of an alignment."""
        with fits():
            if own := part_of(saved, STATE):
                self.alignment.load_state(own)
            self.metrics = {name: tuple(values_K.tolist()) for name, values_K in part_of(saved, METRIC).items()}


def begin(session: Session, task: Task, folder: Path, saved: Mapping[str, Tensor], say: Say) -> Here:
    """The work of all of a session's clients, from where a checkpoint left it. Raises as the parts do."""
    cohort, recipe = session.cohort, task.recipe
    rewards = rewards_of(recipe, folder, cohort.backbone.device, say)
    share = share_of(task, range(cohort.placement.num_clients))
    return work_of(share, recipe, cohort, task.tokenizer, rewards, saved)


def work_of(
    share: Share, recipe: Recipe, cohort: Cohort, tokenizer: Any, rewards: Rewards, saved: Mapping[str, Tensor]
) -> Here:
    """The work of the clients that a cohort holds, in its order, from where a checkpoint left it."""
    settings = recipe.method.alignment
    assert settings is not None
    cohort.optimiser.train()  # the last round may have been about some blocks alone
    model = Model(
        cohort.backbone, cohort.bank, tokenizer, recipe.world.data.template, tokens_per_pass=cohort.tokens_per_pass
    )
    work = Here(share, Alignment(model, share.clients, rewards, settings.learning, recipe.run.seed))
    work.load_state(saved)
    return work
