"""Checks of configuration parts and of the ranges a physical model is valid in.

The limits of a field are written once, as `annotated_types` constraints in its annotation. pydantic reads them when a
recipe is parsed; `check_fields` reads the same ones when a part is built in Python, so both refuse the same values.
"""

from __future__ import annotations

import math
import types
from dataclasses import fields
from functools import cache
from numbers import Integral, Real
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

import numpy as np
from annotated_types import Ge, Gt, Le, Lt
from numpy.typing import ArrayLike

from wavetune.errors import ConfigError, nearest

Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Count = Annotated[int, Ge(1)]
PowerDbm = Annotated[float, Ge(-100), Le(90)]
PsdDbmPerHz = Annotated[float, Ge(-300), Le(0)]


def check_fields(part: object) -> None:
    """Refuse the first field of a dataclass whose value breaks the type or limits of its annotation.

    Raises:
        ConfigError: names the field, its value and what is allowed.

    >>> from wavetune.wireless.scenario import Band
    >>> Band(subchannel_hz=-1.0)
    Traceback (most recent call last):
    wavetune.errors.ConfigError: Band.subchannel_hz is -1.0 but must be at least 1; check the unit in the field's name
    """
    for name, hint in _field_hints(type(part)).items():
        _check(f"{type(part).__name__}.{name}", getattr(part, name), hint)


class Checked:
    """Base of dataclasses that `check_fields` looks at when one is built, and of seams whose parts are such."""

    def __post_init__(self) -> None:
        check_fields(self)


def check_range(name: str, value: ArrayLike, low: float, high: float, source: str) -> None:
    """Refuse values outside [low, high], a model's range of validity; NaN is outside.

    Raises:
        ConfigError: names the quantity, the first value outside, the range and where it comes from.

    >>> check_range("distance_2d_m", [20.0, 9.0], 10.0, 5000.0, "TR 38.901 Table 7.4.1-1")
    Traceback (most recent call last):
    wavetune.errors.ConfigError: distance_2d_m is 9 but must be in [10, 5000] (TR 38.901 Table 7.4.1-1)
    """
    values = np.atleast_1d(np.asarray(value, np.float64))
    # A point on the rim may round to just outside.
    outside = ~((values >= low - 1e-9 * abs(low)) & (values <= high + 1e-9 * abs(high)))
    if outside.any():
        raise ConfigError(f"{name} is {values[outside][0]:g} but must be in [{low:g}, {high:g}] ({source})")


@cache
def _field_hints(part: Any) -> dict[str, Any]:
    hints = get_type_hints(part, include_extras=True)
    return {field.name: hints[field.name] for field in fields(part)}


def _check(path: str, value: Any, hint: Any) -> None:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        _check(path, value, arguments[0])
        for limit in arguments[1:]:
            _check_limit(path, value, limit)
    elif origin in (Union, types.UnionType):
        _check_union(path, value, arguments)
    elif origin is tuple:
        _check_tuple(path, value, arguments)
    elif origin is dict:
        _check_dict(path, value, arguments)
    elif origin is Literal:
        if value not in arguments:
            raise ConfigError(f"{path} is {value!r}: {nearest(str(value), map(str, arguments))}")
    elif origin is None and hint is not Any and not _is_a(value, hint):
        raise ConfigError(f"{path} is {value!r} but must be {_WORDS.get(hint, hint.__name__)}")


def _check_limit(path: str, value: Any, limit: Any) -> None:
    # Written so that NaN fails every limit.
    match limit:
        case Gt(bound):
            holds, words = value > bound, f"greater than {bound:g}"
        case Ge(bound):
            holds, words = value >= bound, f"at least {bound:g}"
        case Lt(bound):
            holds, words = value < bound, f"less than {bound:g}"
        case Le(bound):
            holds, words = value <= bound, f"at most {bound:g}"
        case _:
            return
    if not holds:
        raise ConfigError(f"{path} is {value!r} but must be {words}; check the unit in the field's name")


def _check_union(path: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value is None and types.NoneType in choices:
        return
    parts = [choice for choice in choices if choice is not types.NoneType]
    parts = [part for part in parts if (get_origin(part) is tuple) == isinstance(value, tuple)] or parts
    if len(parts) == 1:
        _check(path, value, parts[0])
    elif not isinstance(value, tuple(parts)):
        raise ConfigError(f"{path} is {value!r} but must be one of {', '.join(part.__name__ for part in parts)}")


def _check_tuple(path: str, value: Any, items: tuple[Any, ...]) -> None:
    any_length = items[-1] is Ellipsis
    values = cast("tuple[Any, ...]", value) if isinstance(value, tuple) else None
    if values is None or not (any_length or len(values) == len(items)):
        raise ConfigError(f"{path} is {value!r} but must be a tuple{'' if any_length else f' of {len(items)} values'}")
    for index, item in enumerate(values):
        _check(f"{path}[{index}]", item, items[0] if any_length else items[index])


def _check_dict(path: str, value: Any, items: tuple[Any, ...]) -> None:
    if not isinstance(value, dict):
        raise ConfigError(f"{path} is {value!r} but must be an object")
    for key, item in cast("dict[Any, Any]", value).items():
        _check(f"{path}.{key}", item, items[1])


_WORDS = {float: "a finite number", int: "a whole number", bool: "true or false", str: "text"}


def _is_a(value: Any, kind: type) -> bool:
    if isinstance(value, bool):  # which Python counts as a whole number
        return kind is bool
    if kind is int:
        return isinstance(value, Integral)
    if kind is float:
        return isinstance(value, Real) and math.isfinite(value)
    return isinstance(value, kind)
