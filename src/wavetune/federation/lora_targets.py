"""Which linear maps carry LoRA, as a setting: names of maps, or `all-linear`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


LoraTargets = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]
"""Ends of dotted paths, as in PEFT; one name stands for a list of it, and `all-linear` for all maps of the blocks."""
