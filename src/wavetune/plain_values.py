"""Values held against the types and limits of fields: those of parts built in Python, and JSON read without pydantic.

A limit is written once, as an `annotated_types` constraint in a field's annotation. pydantic reads it too, but takes
long to import: it is asked only of JSON that is not plainly right, and says why where it is not.
"""

import math
import types
from dataclasses import fields
from functools import cache
from numbers import Integral, Real
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt, MinLen

from wavetune.errors import ConfigError, nearest

NOT_PLAIN: Any = object()
_EXACT = 2**53  # whole numbers up to here are floats without rounding
_WORDS = {float: "a finite number", int: "a whole number", bool: "true or false", str: "text"}


@cache
def field_types(part: Any) -> dict[str, Any]:
    """Types of the fields of a dataclass by their names, with limits."""
    hints = get_type_hints(part, include_extras=True)
    return {field.name: hints[field.name] for field in fields(part)}


def plain_value(hint: Any, value: Any) -> Any:
    """What pydantic reads a JSON value as for a type of plain values within limits; NOT_PLAIN where that takes asking.

    >>> plain_value(Annotated[float, Gt(0)], 2), plain_value(tuple[int, ...] | None, [1, 2])
    (2.0, (1, 2))
    >>> plain_value(Annotated[float, Gt(0)], -2) is NOT_PLAIN
    True
    """
    try:
        return held_against(hint, value, "", is_json=True)
    except ConfigError:
        return NOT_PLAIN


def held_against(hint: Any, value: Any, path: str, is_json: bool = False) -> Any:
    """A value of a type within its limits; of JSON as Python holds it, which not every right value plainly says.

    Raises: ConfigError naming the path, the value and what is allowed.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        found = held_against(arguments[0], value, path, is_json)
        for limit in arguments[1:]:
            _require_within(limit, found, path, is_json)
        return found
    if origin in (Union, types.UnionType):
        return _of_alternatives(arguments, value, path, is_json)
    if origin is tuple:
        return _of_items(arguments, value, path, is_json)
    if origin is dict:
        return _of_entries(arguments, value, path, is_json)
    if origin is Literal:
        if any(type(one) is type(value) and one == value for one in arguments):
            return value
        raise ConfigError(f"{path} is {value!r}: {nearest(str(value), map(str, arguments))}")
    if is_json:
        if hint is float and type(value) is int and abs(value) <= _EXACT:
            return float(value)
        if value.isascii() if hint is str and isinstance(value, str) else hint in _EXACTLY and type(value) is hint:
            return value
    elif origin is not None or hint is Any or _is_a(value, hint):
        return value
    raise ConfigError(f"{path} is {value!r} but must be {_WORDS.get(hint) or getattr(hint, '__name__', hint)}")


_EXACTLY = (bool, int, float, types.NoneType)


def _is_a(value: Any, kind: type) -> bool:
    if isinstance(value, bool):  # which Python counts as a whole number
        return kind is bool
    if kind is int:
        return isinstance(value, Integral)
    if kind is float:
        return isinstance(value, Real) and math.isfinite(value)
    return isinstance(value, kind)


def _require_within(limit: Any, value: Any, path: str, is_json: bool) -> None:
    match limit:  # written so that NaN fails every limit
        case Gt(bound):
            holds, words = value > bound, f"greater than {bound:g}"
        case Ge(bound):
            holds, words = value >= bound, f"at least {bound:g}"
        case Lt(bound):
            holds, words = value < bound, f"less than {bound:g}"
        case Le(bound):
            holds, words = value <= bound, f"at most {bound:g}"
        case MinLen(least):
            holds, words = len(value) >= least, f"of {least} or more"
        case _:
            holds, words = not is_json, "as pydantic says"
    if not holds:
        unit = "; check the unit in the field's name" if isinstance(value, Real) else ""
        raise ConfigError(f"{path} is {value!r} but must be {words}{unit}")


def _of_alternatives(hints: tuple[Any, ...], value: Any, path: str, is_json: bool) -> Any:
    """Of JSON the only alternative that it plainly is, or that it is without being converted."""
    if value is None and types.NoneType in hints:
        return None
    found, refused = list[Any](), dict[Any, ConfigError]()
    for hint in (one for one in hints if one is not types.NoneType):
        try:
            found.append(held_against(hint, value, path, is_json))
        except ConfigError as error:
            refused[hint] = error
    same = [one for one in found if type(one) is type(value) is not dict]
    if same or len(found) == 1 or (found and not is_json):
        return (same or found)[0]
    alike = [one for one in refused if (get_origin(one) is tuple) == isinstance(value, tuple)] or list(refused)
    if len(alike) == 1:
        raise refused[alike[0]]
    raise ConfigError(f"{path} is {value!r} but must be one of {', '.join(getattr(a, '__name__', '') for a in alike)}")


def _of_items(hints: tuple[Any, ...], value: Any, path: str, is_json: bool) -> tuple[Any, ...]:
    any_length = hints[-1] is Ellipsis
    if not isinstance(value, list if is_json else tuple) or not (any_length or len(value) == len(hints)):
        raise ConfigError(f"{path} is {value!r} but must be a tuple{'' if any_length else f' of {len(hints)} values'}")
    items = cast("list[Any]", value)
    each = hints[:1] * len(items) if any_length else hints
    return tuple(
        held_against(hint, item, f"{path}[{i}]", is_json)
        for i, (hint, item) in enumerate(zip(each, items, strict=True))
    )


def _of_entries(hints: tuple[Any, ...], value: Any, path: str, is_json: bool) -> dict[Any, Any]:
    """Whole numbers are written as texts where they are keys of JSON."""
    if not isinstance(value, dict):
        raise ConfigError(f"{path} is {value!r} but must be an object")
    found = dict[Any, Any]()
    for key, item in cast("dict[Any, Any]", value).items():
        is_whole = is_json and hints[0] is int and key.isdecimal() and len(key) < 19 and str(int(key)) == key
        own = held_against(hints[0], int(key) if is_whole else key, path, is_json) if is_json else key
        found[own] = held_against(hints[1], item, f"{path}.{key}", is_json)
    return found
