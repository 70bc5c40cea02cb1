"""The rewards of a run, loaded; those that are embedded are trained first, from the run's own preference data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wavetune.data.preferences import load_preferences
from wavetune.errors import DeploymentError, RunFolderError
from wavetune.federation.answer_scores import Reward
from wavetune.federation.rewards import EmbeddedReward, RewardPart
from wavetune.federation.run_folder import explained

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
    columns: Mapping[str, str] | None = None,
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
        columns: of the files with pairs, by the field that each holds.
    Raises: DataError, ModelError, ConfigError or RunFolderError as the parts do.
    """
    chosen = _precision(device, bf16)

    def train(part: EmbeddedReward) -> Path:
        return trained(part, source, folder, watcher, seed, device, chosen, columns)

    return [part.trained_by(train).open(device, chosen) for part in parts]


def check_rewards(
    parts: Sequence[RewardPart], source: str, seed: int, columns: Mapping[str, str] | None = None
) -> None:
    """Raise at once what `open_rewards` would raise about a part's function, model or pairs; nothing is trained."""
    for part in parts:
        part.require(lambda preference: source == CONCIERGE or load_preferences(source, preference, seed, columns))


def trained(
    part: EmbeddedReward,
    source: str,
    folder: Path,
    watcher: Watcher,
    seed: int,
    device: torch.device | str,
    bf16: bool | None = None,
    columns: Mapping[str, str] | None = None,
) -> Path:
    """The folder of an embedded reward under that of all, where it is trained unless it is there already."""
    from wavetune.models.reward import ABOUT
    from wavetune.runtimes.train_reward import PLANNED, preference_corpus, train_reward

    own = folder / part.preference
    if not (own / ABOUT).exists():
        corpus = preference_corpus(source, part.preference, part.training, seed, columns)
        begun = (own / PLANNED).exists()
        precision = _precision(device, bf16)
        train_reward(corpus, part.training, own, watcher, seed, device, precision, begun, source, columns)
    return own


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


def _precision(device: torch.device | str, bf16: bool | None) -> bool:
    import torch

    from wavetune.runtimes.precision import uses_bf16

    return uses_bf16("auto", torch.device(device)) if bf16 is None else bf16
