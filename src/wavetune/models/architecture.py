"""The architecture of a model folder: written down, or counted once and kept in the cache and read without torch."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from wavetune.costs.architecture import Architecture, is_written_down
from wavetune.costs.architecture_json import architecture_from_json, architecture_to_json
from wavetune.models.cache import cached
from wavetune.models.folder_check import read_object

LAYOUT = "v2"  # raised when other things are counted


def architecture_of(folder: Path, say: Callable[[str], None] | None = None) -> Architecture:
    """The architecture that a model folder's config describes.

    Of families without a formula it is counted from the config on the meta device, which needs torch, and kept in the
    cache under the config's hash; `say` is told before. Raises ModelError if the config cannot be read or counted.
    """
    config = read_object(folder / "config.json")
    if is_written_down(config):
        return Architecture.from_config(config)
    key = hashlib.sha256(f"{version('transformers')} {version('peft')} {json.dumps(config)}".encode()).hexdigest()
    return _kept(cached(f"costs/{LAYOUT}/{key}.json"), folder, say)


def _kept(path: Path, folder: Path, say: Callable[[str], None] | None) -> Architecture:
    try:
        return architecture_from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError):  # not there, or damaged: it is counted again
        pass
    if say is not None:
        say(f"counting the costs of the model in {folder}, once")
    from wavetune.models.counting import count_folder

    architecture = count_folder(folder)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_text(architecture_to_json(architecture), encoding="utf-8")
        partial.replace(path)
    except OSError:
        pass  # a cache that cannot be written costs the counting again, nothing else
    return architecture
