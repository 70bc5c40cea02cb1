"""Trackers that follow a run while it goes on, each through its library's own client; imported only when asked for."""

import importlib
from importlib.util import find_spec

from wavetune.callbacks import Callback
from wavetune.errors import ConfigError

TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")  # what each imports and installs is called the same


def tracker(name: str) -> Callback:
    """A tracker of `TRACKERS` that has not begun. Raises ConfigError where its library is not installed."""
    found = find_spec(name)
    if found is None or found.origin is None:  # as of a folder here that happens to be called so
        raise ConfigError(f"--track {name}: it is not installed; pip install {name}")
    from wavetune.tracking.client import Tracking

    return Tracking(name, importlib.import_module(f"wavetune.tracking.{name}").open_tracker)
