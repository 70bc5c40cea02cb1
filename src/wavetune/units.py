"""Conversions between decibel and linear units: the only module that computes 10 log10."""

from typing import overload

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@overload
def db_to_linear(value_db: float) -> float: ...
@overload
def db_to_linear(value_db: Array) -> Array: ...
def db_to_linear(value_db: float | Array) -> float | Array:
    """Power ratio of a value in dB.

    >>> db_to_linear(30.0)
    1000.0
    """
    return 10.0 ** (value_db / 10.0)


@overload
def linear_to_db(ratio: float) -> float: ...
@overload
def linear_to_db(ratio: Array) -> Array: ...
def linear_to_db(ratio: float | Array) -> float | Array:
    """Decibels of a power ratio; minus infinity for 0.

    >>> float(linear_to_db(100.0))
    20.0
    """
    with np.errstate(divide="ignore"):
        return 10.0 * np.log10(ratio)


@overload
def dbm_to_w(power_dbm: float) -> float: ...
@overload
def dbm_to_w(power_dbm: Array) -> Array: ...
def dbm_to_w(power_dbm: float | Array) -> float | Array:
    """Watts of a power in dBm (also W/Hz of a density in dBm/Hz).

    >>> dbm_to_w(30.0)
    1.0
    """
    return 10.0 ** ((power_dbm - 30.0) / 10.0)


@overload
def w_to_dbm(power_w: float) -> float: ...
@overload
def w_to_dbm(power_w: Array) -> Array: ...
def w_to_dbm(power_w: float | Array) -> float | Array:
    """Power in dBm of watts; minus infinity for 0 W.

    >>> float(w_to_dbm(1.0))
    30.0
    """
    with np.errstate(divide="ignore"):
        return 10.0 * np.log10(power_w) + 30.0
