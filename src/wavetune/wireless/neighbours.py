"""Cells around this one: what their devices and base stations send is received here as interference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
from annotated_types import Ge, Gt, Le

from wavetune.parts import Part
from wavetune.seeds import stream
from wavetune.units import Array, db_to_linear
from wavetune.wireless.large_scale import large_scale, streams
from wavetune.wireless.validation import Positive, check_fields, check_range

if TYPE_CHECKING:
    from wavetune.wireless.scenario import Band, Scenario


@dataclass(frozen=True)
class Neighbours(Part):
    """Cells of a hexagonal layout around this one, in the same bands and with populations like its own.

    Their base stations stand `distance_m` away, 60 degrees apart from 30 degrees on. In every round each gives its
    clients equal shares of the subchannels, drawn anew, and each client spreads its power (that of `power_control`
    where there is one) evenly over its own. A subchannel is in use a share `activity` of the time.

    Formula: I_m = activity * sum over cells of p g at the base station, with power p and gain g of whoever has
    subchannel m there; at client k, I_k = activity * sum over cells of P_down / M * g_k.

    Ignores: fading of what interferes, and that plans of cells answer each other.

    Source: layout of TR 38.901 clause 7.2 (hexagonal grid); the factor of activity is a usual stand-in for the others'
    schedules.
    """

    cells: Annotated[int, Ge(1), Le(6)] = 6
    distance_m: Positive = 500.0
    activity: Annotated[float, Gt(0), Le(1)] = 0.5

    def __post_init__(self) -> None:
        check_fields(self)

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

    def at_server_w_M(self, scenario: Scenario, name: str, band: Band, seed: int, round_index: int) -> Array:
        """[M] what the neighbours' devices send to this cell's base station in a round, W."""
        total_w_M = np.zeros(band.num_subchannels)
        for c, site_m_2 in enumerate(self.site_m_C2):
            power_w_K, gain_K = self._devices(scenario, c, site_m_2, seed)
            generator = stream(seed, f"neighbours/{name}/owners", round_index, c)
            owner_M = generator.permutation(np.arange(band.num_subchannels) % len(power_w_K))
            count_K = np.bincount(owner_M, minlength=len(power_w_K))
            total_w_M += (power_w_K * gain_K)[owner_M] / count_K[owner_M]
        return self.activity * total_w_M

    def at_devices_w_K(
        self, scenario: Scenario, band: Band, ids: Sequence[int], position_m_K2: Array, seed: int
    ) -> Array:
        """[K] what the neighbours' base stations send to devices at these positions on each subchannel, W."""
        gain_K = np.zeros(len(ids))
        for c, site_m_2 in enumerate(self.site_m_C2):
            gain_K += _gain(scenario, seed, ids, position_m_K2 - site_m_2, f"neighbour {c}/down/")
        return self.activity * band.downlink_power_w / band.num_subchannels * gain_K

    def _devices(self, scenario: Scenario, c: int, site_m_2: Array, seed: int) -> tuple[Array, Array]:
        """[K] of a neighbour's devices: their power, W, and their gain to this cell's base station."""
        ids = range(scenario.population.num_clients)
        own_m_K2 = scenario.placement.draw_m(
            ids, streams(seed, f"neighbour {c}/placement", 0, ids), scenario.min_distance_m, scenario.cell_radius_m
        )
        own_loss_db_K = -10 * np.log10(_gain(scenario, seed, ids, own_m_K2, f"neighbour {c}/own/"))
        return (
            scenario.tx_power_max_w(own_loss_db_K),
            _gain(scenario, seed, ids, own_m_K2 + site_m_2, f"neighbour {c}/up/"),
        )


def _gain(scenario: Scenario, seed: int, ids: Sequence[int], from_site_m_K2: Array, link: str) -> Array:
    """[K] linear gains without fading between a base station and devices at places relative to it."""
    distance_m_K = np.hypot(from_site_m_K2[:, 0], from_site_m_K2[:, 1])
    drawn = large_scale(scenario, seed, ids, distance_m_K, from_site_m_K2, link)
    return db_to_linear(-scenario.coupling_loss_db(drawn.path_loss_db_K + drawn.shadowing_db_K))
