"""Trackio: a run of the project `TRACKIO_PROJECT` or `wavetune`, here unless `TRACKIO_SPACE_ID` names a Space."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wavetune.tracking.client import PROJECT


class Trackio:
    """A run of trackio's."""

    def __init__(self, run: Any) -> None:
        self.run, self.key = run, run.name

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Metrics of a step."""
        self.run.log(dict(numbers), step=step)

    def files(self, paths: list[Path]) -> None:
        """Artefacts of the run."""
        for path in paths:
            self.run.log_artifact(str(path), name=path.stem, type="wavetune")

    def close(self, finished: bool) -> None:
        """Send what is left."""
        self.run.finish()


def open_tracker(name: str, folder: Path, key: str | None, parameters: Mapping[str, Any]) -> Trackio:
    """A new run, or the one that goes on."""
    import trackio  # pyright: ignore[reportMissingImports]

    project, resume = os.environ.get("TRACKIO_PROJECT", PROJECT), "never" if key is None else "must"
    title = key or f"{name}-{os.urandom(3).hex()}"
    return Trackio(trackio.init(project=project, name=title, config=dict(parameters), resume=resume, embed=False))
