"""The rewards of a run's alignment: opened from a folder, into which they are trained where the recipe says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from wavetune.data.concierge_truth import helpful, safe
from wavetune.federation.alignment import Rewards
from wavetune.runtimes.alignment.task import Task
from wavetune.runtimes.rewards import CONCIERGE, RewardFolder

Say = Callable[[str], None]


class Progress:
    """A reward model's training, told as messages."""

    def __init__(self, say: Say) -> None:
        self.say = say

    def message(self, text: str) -> None:
        """Told as it is."""
        self.say(text)

    def step(self, done: int, steps: int, loss: float) -> None:
        """A line a quarter is enough."""
        if done % max(1, steps // 4) == 0:
            self.say(f"  reward model: step {done} of {steps}, loss {loss:.3f}")


def reward_folder(task: Task, path: Path, device: torch.device, say: Say) -> RewardFolder:
    """Where the rewards of a task are kept."""
    read = task.recipe.world.data
    return RewardFolder(path, read.source, Progress(say), task.recipe.run.seed, device, read.columns)


def rewards_of(task: Task, path: Path, device: torch.device, say: Say) -> Rewards:
    """Both rewards, opened from a folder or trained into it, and the true scores where they are known.

    Raises as the parts do.
    """
    folder = reward_folder(task, path, device, say)
    scores = folder.open(task.rewards)
    known = {"helpful": helpful, "safe": safe} if folder.source == CONCIERGE else {}
    return Rewards(scores[0].score, scores[1].score, known)
