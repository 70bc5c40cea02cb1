"""The architecture of a model folder: written down, or counted once and kept in the cache and read without torch."""

from collections.abc import Callable
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from wavetune.costs.architecture import Architecture, is_written_down
from wavetune.costs.operations import Block
from wavetune.models.cache import kept, place_of
from wavetune.models.folder_check import read_object

LAYOUT = "v3"  # raised when other things are counted


def architecture_of(folder: Path, say: Callable[[str], None] | None = None) -> Architecture:
    """The architecture that a model folder's config describes.

    Of families without a formula it is counted from the config on the meta device, which needs torch, and kept in the
    cache under the config's hash; `say` is told before. Raises ModelError if the config cannot be read or counted.
    """
    config = read_object(folder / "config.json")
    if is_written_down(config):
        return Architecture.from_config(config)

    def count() -> Architecture:
        from wavetune.models.counting import count_folder

        if say is not None:
            say(f"counting the costs of the model in {folder}, once")
        return count_folder(folder)

    place = place_of(f"costs/{LAYOUT}", [version("transformers"), version("peft"), config])
    return kept(place, count, _written, _read)


def _written(architecture: Architecture) -> dict[str, Any]:
    """An architecture as JSON, in which blocks that are equal stand once."""
    kinds = list(dict.fromkeys(architecture.blocks))
    sizes = {f.name: getattr(architecture, f.name) for f in fields(architecture) if f.name != "blocks"}
    return {**sizes, "kinds": [*map(asdict, kinds)], "blocks": [*map(kinds.index, architecture.blocks)]}


def _read(value: dict[str, Any]) -> Architecture:
    """The architecture that was written so; raises LookupError, TypeError or ValueError if it was none."""
    from pydantic import TypeAdapter

    kinds = TypeAdapter(list[Block]).validate_python(value["kinds"])
    del value["kinds"]
    value["default_lora_targets"] = tuple(value["default_lora_targets"])
    value["blocks"] = tuple(kinds[index] for index in value["blocks"])
    return Architecture(**value)
