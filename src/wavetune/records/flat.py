"""Nested values as one level, by their paths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flat(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """The entries of nested mappings by dotted path; lists stay as they are, an empty mapping leaves nothing.

    >>> flat({"round": 0, "charged": {"delay_s": 1.5, "bits": {"up": 8}}, "rank_K": [1, 2]})
    {'round': 0, 'charged.delay_s': 1.5, 'charged.bits.up': 8, 'rank_K': [1, 2]}
    """
    found = dict[str, Any]()
    for name, value in values.items():
        here = f"{path}.{name}" if path else str(name)
        found |= flat(value, here) if isinstance(value, Mapping) else {here: value}
    return found
