"""Which linear maps carry LoRA, as a setting: names of maps, or `all-linear`."""

from __future__ import annotations

from typing import Annotated, Any, cast

from annotated_types import MinLen
from pydantic import BeforeValidator


def _as_tuple(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(cast("list[Any]", value))
    return (value,) if isinstance(value, str) else value


LoraTargets = Annotated[tuple[str, ...], MinLen(1), BeforeValidator(_as_tuple)]
"""Ends of dotted paths, as in PEFT; one name stands for a list of it, and `all-linear` for all maps of the blocks."""
