"""Weights & Biases: a run of the project `WANDB_PROJECT` or `wavetune`; `WANDB_MODE=offline` keeps it on this disk."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavetune.tracking.client import PROJECT

if TYPE_CHECKING:
    import wandb


class WandB:
    """A run of Weights & Biases."""

    def __init__(self, run: wandb.Run) -> None:
        self.run, self.key = run, run.id

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Metrics of a step."""
        self.run.log(dict(numbers), step=step)

    def files(self, paths: list[Path]) -> None:
        """An artefact of the run's."""
        import wandb

        artefact = wandb.Artifact(f"{self.key}-{paths[-1].stem}" if paths else self.key, type="wavetune")
        for path in paths:
            artefact.add_file(str(path))
        self.run.log_artifact(artefact)

    def close(self, finished: bool) -> None:
        """Send what is left."""
        self.run.finish(exit_code=0 if finished else 1)


def open_tracker(name: str, folder: Path, key: str | None, parameters: Mapping[str, Any]) -> WandB:
    """A new run, or the one that goes on; its files lie in the run's folder and the terminal is not captured."""
    import wandb

    settings = wandb.Settings(console="off", silent=True, save_code=False)
    project = os.environ.get("WANDB_PROJECT", PROJECT)
    config = dict(parameters) if key is None else None
    return WandB(
        wandb.init(
            project=project, name=name, dir=str(folder), id=key, resume="allow", config=config, settings=settings
        )
    )
