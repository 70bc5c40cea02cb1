"""Conversions between decibel and linear units: the only module that computes 10 log10."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
Numbers = TypeVar("Numbers", float, Array)


def db_to_linear(value_db: Numbers) -> Numbers:
    """Power ratio of a value in dB.

    >>> db_to_linear(30.0)
    1000.0
    """
    return 10.0 ** (value_db / 10.0)  # pyright: ignore[reportReturnType]


def linear_to_db(ratio: Numbers) -> Numbers:
    """Decibels of a power ratio; minus infinity for 0.

    >>> float(linear_to_db(100.0))
    20.0
    """
    with np.errstate(divide="ignore"):
        return 10.0 * np.log10(ratio)  # pyright: ignore[reportReturnType]


def dbm_to_w(power_dbm: Numbers) -> Numbers:
    """Watts of a power in dBm (also W/Hz of a density in dBm/Hz).

    >>> dbm_to_w(30.0)
    1.0
    """
    return 10.0 ** ((power_dbm - 30.0) / 10.0)  # pyright: ignore[reportReturnType]


def w_to_dbm(power_w: Numbers) -> Numbers:
    """Power in dBm of watts; minus infinity for 0 W.

    >>> float(w_to_dbm(1.0))
    30.0
    """
    with np.errstate(divide="ignore"):
        return 10.0 * np.log10(power_w) + 30.0  # pyright: ignore[reportReturnType]
