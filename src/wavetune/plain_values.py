"""JSON values that plainly are what a field asks for, told without pydantic, which takes long to import.

What is not plain here may still be right: pydantic decides, and says why where it is not.
"""

from __future__ import annotations

import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen

NOT_PLAIN: Any = object()
_EXACT = 2**53  # whole numbers up to here are floats without rounding


def plain_value(hint: Any, value: Any) -> Any:
    """What pydantic reads a JSON value as for a type of plain values within limits; NOT_PLAIN where that takes asking.

    >>> plain_value(Annotated[float, Gt(0)], 2), plain_value(tuple[int, ...] | None, [1, 2])
    (2.0, (1, 2))
    >>> plain_value(Annotated[float, Gt(0)], -2) is NOT_PLAIN
    True
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        found = plain_value(arguments[0], value)
        return found if found is not NOT_PLAIN and all(_within(found, one) for one in arguments[1:]) else NOT_PLAIN
    if origin in (Union, types.UnionType):
        return _of_alternatives(arguments, value)
    if origin is Literal:
        return value if any(type(one) is type(value) and one == value for one in arguments) else NOT_PLAIN
    if origin is tuple and isinstance(value, list):
        return _of_items(arguments, value)
    if origin is dict and isinstance(value, dict):
        return _of_entries(arguments, value)
    if hint is float and type(value) is int and abs(value) <= _EXACT:
        return float(value)
    if hint is str:
        return value if isinstance(value, str) and value.isascii() else NOT_PLAIN
    return value if hint in (bool, int, float, types.NoneType) and type(value) is hint else NOT_PLAIN


def _of_alternatives(hints: tuple[Any, ...], value: Any) -> Any:
    """Of the only alternative that the value plainly is, or that it is without being converted."""
    found = [one for hint in hints if (one := plain_value(hint, value)) is not NOT_PLAIN]
    same = [one for one in found if type(one) is type(value) is not dict]
    return same[0] if same else found[0] if len(found) == 1 else NOT_PLAIN


def _of_items(hints: tuple[Any, ...], values: list[Any]) -> Any:
    each = hints[:1] * len(values) if hints[-1] is Ellipsis else hints
    if len(each) != len(values):
        return NOT_PLAIN
    found = tuple(plain_value(hint, value) for hint, value in zip(each, values, strict=True))
    return NOT_PLAIN if any(one is NOT_PLAIN for one in found) else found


def _of_entries(hints: tuple[Any, ...], values: dict[Any, Any]) -> Any:
    """Whole numbers are written as texts where they are keys."""
    whole = hints[0] is int and all(isinstance(key, str) and key == str(_number_in(key)) for key in values)
    found = {
        _number_in(key) if whole else plain_value(hints[0], key): plain_value(hints[1], item)
        for key, item in values.items()
    }
    return NOT_PLAIN if any(one is NOT_PLAIN for one in (*found, *found.values())) else found


def _number_in(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) < 19 else None


def _within(value: Any, limit: Any) -> bool:
    match limit:
        case Gt(bound):
            return value > bound
        case Ge(bound):
            return value >= bound
        case Lt(bound):
            return value < bound
        case Le(bound):
            return value <= bound
        case MinLen(least):
            return len(value) >= least
        case _:
            return False
