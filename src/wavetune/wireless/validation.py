"""Checks of configuration parts that are built in Python, and of the ranges a physical model is valid in."""

from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Le
from numpy.typing import ArrayLike

from wavetune.errors import ConfigError
from wavetune.plain_values import field_types, held_against

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
    for name, hint in field_types(type(part)).items():
        held_against(hint, getattr(part, name), f"{type(part).__name__}.{name}")


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
