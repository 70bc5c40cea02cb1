"""Loss of the way into a building: outer wall, depth, and their spread (TR 38.901 clause 7.4.3)."""

from typing import Literal

import numpy as np

from wavetune.units import Array, db_to_linear, linear_to_db

Building = Literal["low_loss", "high_loss"]  # plain glass and concrete, or glass that reflects infrared
_STD_DB = {"low_loss": 4.4, "high_loss": 6.5}


def wall_loss_db(building: Building, carrier_hz: float) -> float:
    """Loss of the outer wall, dB.

    Formula, f in GHz: 5 - 10 log10(0.3 10^(-glass / 10) + 0.7 10^(-concrete / 10)) with glass = 2 + 0.2 f and
    concrete = 5 + 4 f; in a high-loss building 0.7 of glass of 23 + 0.3 f and 0.3 of concrete.

    Source: TR 38.901 Tables 7.4.3-1 and 7.4.3-2.

    >>> round(wall_loss_db("low_loss", 3.5e9), 2), round(wall_loss_db("high_loss", 3.5e9), 2)
    (12.7, 26.85)
    """
    ghz = carrier_hz / 1e9
    glass_db, share = (2 + 0.2 * ghz, 0.3) if building == "low_loss" else (23 + 0.3 * ghz, 0.7)
    passed = share * db_to_linear(-glass_db) + (1 - share) * db_to_linear(-(5 + 4 * ghz))
    return 5 - float(linear_to_db(passed))


def penetration_loss_db(building: Building, carrier_hz: float, depth_m_K: Array, normal_K: Array) -> Array:
    """Loss of the way to devices in a building, dB, [K].

    Formula: wall + 0.5 depth + N(0, 4.4^2), or 6.5 dB in a high-loss building.

    Args:
        building: what the outer wall is of.
        carrier_hz: Hz.
        depth_m_K: how far inside each device is, m.
        normal_K: a normal draw per device.

    Source: TR 38.901 clause 7.4.3.1.
    """
    return wall_loss_db(building, carrier_hz) + 0.5 * np.asarray(depth_m_K) + _STD_DB[building] * np.asarray(normal_K)
