"""The numbers of decoded JSON, for tests that change one of them."""

from collections.abc import Iterator
from typing import Any


def numbers(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every number in decoded JSON."""
    if isinstance(value, dict | list):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from numbers(one, (*path, key))
    elif isinstance(value, int | float):
        yield path
