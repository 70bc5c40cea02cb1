"""Cells around this one: what their devices and base stations send is received here as interference."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Gt, Le

from wavetune.parts import Part
from wavetune.units import Array
from wavetune.wireless.validation import Checked, Positive, check_range


@dataclass(frozen=True)
class Neighbours(Checked, Part):
    """Cells of a hexagonal layout around this one, in the same bands and with populations like its own.

    Their base stations stand `distance_m` away, 60 degrees apart from 30 degrees on. By the schedule `shares` each
    gives its clients, in every round, equal shares of the subchannels, drawn anew, and each client spreads its power
    (that of `power_control` where there is one) evenly over its own. A subchannel is in use a share `activity` of the
    time. By `plans` every cell plans as this one does, on what it hears of the others, until plans settle; how long a
    subchannel is in use then follows from the plans.

    Formula of `shares`: I_m = activity * sum over cells of p g at the base station, with power p and gain g of whoever
    has subchannel m there; at client k, I_k = activity * sum over cells of P_down / M * g_k.

    Ignores: fading of what interferes.

    Source: layout of TR 38.901 clause 7.2 (hexagonal grid); the factor of activity is a usual stand-in for the others'
    schedules.
    """

    cells: Annotated[int, Ge(1), Le(6)] = 6
    distance_m: Positive = 500.0
    activity: Annotated[float, Gt(0), Le(1)] = 0.5
    schedule: Literal["shares", "plans"] = "shares"

    def require_apart(self, cell_radius_m: float, limits_m: tuple[float, float], model: str) -> None:
        """ConfigError where a device of one cell may come nearer to, or farther from, another than a formula holds."""
        low_m, high_m = limits_m
        source = f"the cell's radius of {cell_radius_m:g} m and the range of {model}"
        check_range(
            "Scenario.neighbours.distance_m", self.distance_m, low_m + cell_radius_m, high_m - cell_radius_m, source
        )

    @property
    def site_m_C2(self) -> Array:
        """[C, 2] where the base stations stand, m."""
        angle_C = math.pi / 6 + math.pi / 3 * np.arange(self.cells)
        return self.distance_m * np.stack([np.cos(angle_C), np.sin(angle_C)], axis=1)
