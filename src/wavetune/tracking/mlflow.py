"""MLflow: a run at `MLFLOW_TRACKING_URI`, in the experiment `MLFLOW_EXPERIMENT_NAME` or `wavetune`."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from wavetune.tracking.client import PROJECT

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")
_PARAMETERS, _METRICS, _LONGEST = 100, 1000, 6000  # in one call; characters of a value


class Mlflow:
    """A run of the tracking server's."""

    def __init__(self, client: MlflowClient, key: str) -> None:
        self.client, self.key = client, key

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Metrics of a step."""
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        for some in _batches([Metric(name, value, now_ms, step) for name, value in numbers.items()], _METRICS):
            self.client.log_batch(self.key, metrics=some)

    def files(self, paths: list[Path]) -> None:
        """Artefacts of the run."""
        for path in paths:
            self.client.log_artifact(self.key, str(path))

    def close(self, finished: bool) -> None:
        """Say how it ended; one that was stopped can go on."""
        self.client.set_terminated(self.key, "FINISHED" if finished else "KILLED")


def open_tracker(name: str, folder: Path, key: str | None, parameters: Mapping[str, Any]) -> Mlflow:
    """A new run, or the one that goes on. The global state of the library is left alone."""
    from mlflow import MlflowClient
    from mlflow.entities import Param

    client = MlflowClient()
    if key is not None:
        client.update_run(key, status="RUNNING")
        return Mlflow(client, key)
    title = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
    found = client.get_experiment_by_name(title)
    experiment = client.create_experiment(title) if found is None else found.experiment_id
    opened = Mlflow(client, client.create_run(experiment, run_name=name).info.run_id)
    texts = {field: value if isinstance(value, str) else json.dumps(value) for field, value in parameters.items()}
    told = [Param(field, text[:_LONGEST]) for field, text in texts.items()]
    for some in _batches(told, _PARAMETERS):
        client.log_batch(opened.key, params=some)
    return opened


def _batches(entries: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (entries[start : start + size] for start in range(0, len(entries), size))
