"""An architecture as JSON, so that what was counted once is read again without torch."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import Any

from wavetune.costs.architecture import Architecture
from wavetune.costs.operations import Block, Product, Projection, Saved


def architecture_to_json(architecture: Architecture) -> str:
    """The text, in which blocks that are equal stand once.

    >>> from wavetune.costs.architecture import PRESETS
    >>> architecture_from_json(architecture_to_json(PRESETS["gpt2"])) == PRESETS["gpt2"]
    True
    """
    kinds = list(dict.fromkeys(architecture.blocks))
    sizes = {f.name: getattr(architecture, f.name) for f in fields(architecture) if f.name != "blocks"}
    written = {**sizes, "kinds": [asdict(kind) for kind in kinds], "blocks": [*map(kinds.index, architecture.blocks)]}
    return json.dumps(written, default=sorted)  # names come as sets


def architecture_from_json(text: str) -> Architecture:
    """The architecture of a text that `architecture_to_json` wrote; raises ValueError, KeyError or TypeError if not."""
    read: dict[str, Any] = json.loads(text)
    kinds = [_block(kind) for kind in read.pop("kinds")]
    targets: list[str] = read["default_lora_targets"]
    read["default_lora_targets"] = tuple(targets)
    order: list[int] = read["blocks"]
    read["blocks"] = tuple(kinds[index] for index in order)
    return Architecture(**read)


def _block(read: dict[str, Any]) -> Block:
    return Block(
        read["values"],
        tuple(Projection(**p) for p in read["projections"]),
        tuple(Product(**p | {side: frozenset(p[side]) for side in ("left", "right")}) for p in read["products"]),
        tuple(Saved(**s | {names: frozenset(s[names]) for names in ("because", "read_by")}) for s in read["saved"]),
        read["attention_end"],
        read["feed_forward_end"],
        read["key_width"],
        read["value_width"],
    )
