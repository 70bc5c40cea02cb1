"""What the check of a large model found, kept in the cache: for one config, engine, transformers and torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
import transformers

from wavetune.models.cache import cached, recalled, remembered
from wavetune.models.structure import Structure
from wavetune.models.way import Checked, Way

ENGINE = ("backbone", "batches", "ragged", "self_check", "structure", "way")


@cache
def _engine() -> str:
    """Changes with whatever a check depends on beside the model."""
    sources = [Path(__file__).with_name(f"{name}.py").read_bytes() for name in ENGINE]
    return sha256(b"".join(sources)).hexdigest() + transformers.__version__ + torch.__version__


def _place(key: Sequence[str]) -> Path:
    return cached(f"checked/{sha256(json.dumps([_engine(), *key]).encode()).hexdigest()}.json")


def recall(key: Sequence[str]) -> Checked | None:
    """What was found for a model with this key; None if it was not looked at, or cannot be read."""
    try:
        values: Any = recalled(_place(key))
        structure = values["structure"]
        structure |= {"tail": tuple(structure["tail"]), "linear_maps": frozenset(structure["linear_maps"])}
        return Checked(Structure(**structure), Way(**values["way"]))
    except (KeyError, TypeError):
        return None


def remember(key: Sequence[str], found: Checked) -> None:
    """Keep it; a cache that cannot be written is done without."""
    structure = asdict(found.structure) | {"linear_maps": sorted(found.structure.linear_maps)}
    remembered(_place(key), {"structure": structure, "way": found.way._asdict()})
