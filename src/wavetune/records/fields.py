"""Fields of records, and records as JSON.

A number that is not known is NaN in a record and null in a file; a list that is not known is empty.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from itertools import chain
from typing import Any, TypeVar

from wavetune.errors import RunFolderError

T = TypeVar("T")
UNKNOWN = math.nan
OPTIONAL = {"optional": True}
"""Metadata of a field that a file has only where it is not the default."""
BESIDE = {"beside": True}
"""Metadata of a mapping whose entries stand in a file beside the record's other fields."""


def as_json(value: Any) -> Any:
    """A record, or what records consist of, as JSON holds it."""
    if is_dataclass(value):
        found: dict[str, Any] = {}
        for one in fields(value):
            own = as_json(getattr(value, one.name))
            if one.metadata == BESIDE:
                found |= own
            elif one.metadata != OPTIONAL or own != as_json(_default(one)):
                found[one.name] = own
        return found
    if isinstance(value, Mapping):
        return {key: as_json(own) for key, own in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [as_json(own) for own in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def finite_json(value: Any) -> str:
    """A value as one line of JSON, with null for what is no finite number.

    >>> finite_json({"loss": float("inf"), "round": 1})
    '{"loss": null, "round": 1}'
    """
    return json.dumps(json.loads(json.dumps(value, default=str), parse_constant=lambda _: None))


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


def gathered(kind: Any, document: dict[str, Any]) -> dict[str, Any]:
    """A document of a kind of record, with the entries that stood beside its fields in the field they belong to."""
    names = {one.name: one.metadata == BESIDE for one in fields(kind)}
    into = next((name for name, is_beside in names.items() if is_beside), None)
    if into is None:
        return document
    own = {name: value for name, value in document.items() if name in names}
    return own | {into: {name: value for name, value in document.items() if name not in names}}


def total(parts: Sequence[T]) -> T:
    """The sum of records of a kind: field by field, in lists position by position; an absent key of a mapping is 0.

    Raises: RunFolderError where lists are not of one length.
    """
    try:
        return _total(parts)
    except (TypeError, ValueError):
        raise RunFolderError(
            "the records of the rounds do not fit together: a list of one is longer than of another, or no list there; "
            "repair them or start a new run"
        ) from None


def _total(parts: Sequence[Any]) -> Any:
    first = parts[0]
    if is_dataclass(first) and not isinstance(first, type):
        return type(first)(**{f.name: _total([getattr(part, f.name) for part in parts]) for f in fields(first)})
    if isinstance(first, Mapping):
        return {key: sum(part.get(key, 0) for part in parts) for key in dict.fromkeys(chain(*parts))}
    if isinstance(first, tuple):
        return tuple(map(sum, zip(*parts, strict=True)))
    return sum(parts)


def _default(one: Field[Any]) -> Any:
    return one.default if one.default_factory is MISSING else one.default_factory()
