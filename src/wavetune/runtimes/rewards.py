"""The rewards of a run, loaded; those that are embedded are trained first, from the run's own preference data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wavetune.data.preferences import load_preferences
from wavetune.errors import DeploymentError, RunFolderError
from wavetune.federation.answer_scores import Reward
from wavetune.federation.memory import give_back_free_heap
from wavetune.federation.rewards import EmbeddedReward, RewardPart
from wavetune.federation.run_folder import explained

if TYPE_CHECKING:
    import torch


CONCIERGE = "concierge"
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


@dataclass(frozen=True)
class RewardFolder:
    """The reward models of a run: a folder of each, opened or, where a recipe embeds it, first trained.

    Args:
        path: the folder of them all; what is there is not trained again.
        source: where embedded rewards get their pairs: `concierge`, a folder or a file.
        say: what is told about the training.
        seed: of the run.
        device: where models are trained and loaded, in bf16 where products are fast in it.
        columns: of the files with pairs, by the field that each holds.
    """

    path: Path
    source: str
    say: Say
    seed: int = 0
    device: torch.device | str = "cpu"
    columns: Mapping[str, str] | None = None

    def open(self, parts: Sequence[RewardPart]) -> list[Reward]:
        """Rewards in the order of the parts. Raises DataError, ModelError, ConfigError or RunFolderError as they do."""
        return [part.trained_by(self.train).open(self.device, self._bf16) for part in parts]

    def train(self, part: EmbeddedReward) -> Path:
        """The folder of an embedded reward, where it is trained unless it is there already."""
        from wavetune.models.reward import ABOUT
        from wavetune.runtimes.reward_cache import keep, place_of, recall
        from wavetune.runtimes.train_reward import PLANNED, preference_corpus, train_reward

        own = self.path / part.preference
        if (own / ABOUT).exists():
            return own
        corpus = preference_corpus(self.source, part.preference, part.training, self.seed, self.columns)
        begun, about = (own / PLANNED).exists(), (self.source, self.columns)
        how = (self.seed, self.device, self._bf16)
        place = place_of(corpus, part.training, {"how": list(map(str, how)), "about": [*map(repr, about)]})
        if not begun and recall(place, own):
            self.say(f"the {part.preference} reward model is the one that was trained on these pairs before")
            return own
        train_reward(corpus, part.training, own, Progress(self.say), *how, begun, *about)
        give_back_free_heap()  # what the training took
        keep(place, own)
        return own

    @property
    def _bf16(self) -> bool:
        import torch

        from wavetune.runtimes.precision import uses_bf16

        return uses_bf16("auto", torch.device(self.device))


def check_rewards(
    parts: Sequence[RewardPart], source: str, seed: int, columns: Mapping[str, str] | None = None
) -> None:
    """Raise at once what `RewardFolder.open` would raise of a part's function, model or pairs; nothing is trained."""
    for part in parts:
        part.require(lambda preference: source == CONCIERGE or load_preferences(source, preference, seed, columns))


def read_files(folder: Path) -> dict[str, bytes]:
    """A trained reward model's files by name, for `write_files`. Raises RunFolderError if one cannot be read."""
    from wavetune.models.reward import LOADED

    try:
        return {name: (folder / name).read_bytes() for name in LOADED}
    except OSError as error:
        raise RunFolderError(f"cannot read the reward model in {folder} ({error}); train it again") from error


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write a reward model that another process read; a killed process leaves none rather than a part."""
    from wavetune.models.reward import ABOUT, LOADED

    if files.keys() != set(LOADED):
        raise DeploymentError(f"a reward model came with the files {sorted(files)} instead of {sorted(LOADED)}")
    with explained(folder):
        (folder / ABOUT).unlink(missing_ok=True)
        for name in LOADED:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(files[name])
