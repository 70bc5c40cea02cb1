"""The rewards of a run, loaded; those that are embedded are trained first, from the run's own preference data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wavetune.data.preferences import load_preferences
from wavetune.federation.rewards import EmbeddedReward, Reward, RewardPart, TrainedReward

if TYPE_CHECKING:
    import torch

    from wavetune.runtimes.train_reward import Watcher


CONCIERGE = "concierge"


def open_rewards(
    parts: Sequence[RewardPart],
    source: str,
    folder: Path,
    watcher: Watcher,
    seed: int = 0,
    device: torch.device | str = "cpu",
    bf16: bool | None = None,
) -> list[Reward]:
    """Rewards of a run, in the order of the parts.

    Args:
        parts: what the recipe names.
        source: where embedded rewards get their pairs: `concierge`, a folder or a file.
        folder: where embedded rewards are kept, one folder each; what is there is not trained again.
        watcher: what is told about the training.
        seed: of the run.
        device, bf16: where and in which precision reward models are loaded; by default in bf16 where products are
            fast in it.
    Raises: DataError, ModelError, ConfigError or RunFolderError as the parts do.
    """
    import torch

    from wavetune.runtimes.session import _use_bf16

    chosen = _use_bf16("auto", torch.device(device)) if bf16 is None else bf16
    return [_opened(part, source, folder, watcher, seed, device, chosen) for part in parts]


def check_rewards(parts: Sequence[RewardPart], source: str, seed: int) -> None:
    """Raise at once what `open_rewards` would raise about a part's function, model or pairs; nothing is trained."""
    for part in parts:
        if not isinstance(part, EmbeddedReward):
            part.open()
        elif source != CONCIERGE:
            load_preferences(source, part.preference, seed)


def _opened(
    part: RewardPart, source: str, folder: Path, watcher: Watcher, seed: int, device: torch.device | str, bf16: bool
) -> Reward:
    if not isinstance(part, EmbeddedReward):
        return part.open(device, bf16)
    from wavetune.models.reward import ABOUT
    from wavetune.runtimes.train_reward import PLANNED, preference_corpus, train_reward

    own = folder / part.preference
    if not (own / ABOUT).exists():
        corpus = preference_corpus(source, part.preference, part.training, seed)
        begun = (own / PLANNED).exists()
        train_reward(corpus, part.training, own, watcher, seed, device, bf16, begun, source)
    return TrainedReward(str(own)).open(device, bf16)
