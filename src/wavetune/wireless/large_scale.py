"""Line of sight, path loss and shadowing of links: what stays while devices stand still."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wavetune.seeds import stream
from wavetune.units import Array
from wavetune.wireless.penetration import penetration_loss_db
from wavetune.wireless.shadowing import draw_correlated, draw_shadowing_db

if TYPE_CHECKING:
    from wavetune.wireless.scenario import Scenario


class LargeScale(NamedTuple):
    """Of K links: whether they are in sight, their path loss and their shadowing (dB)."""

    is_los_K: NDArray[np.bool_]
    path_loss_db_K: Array
    shadowing_db_K: Array


def large_scale(
    scenario: Scenario, seed: int, ids: Sequence[int], distance_m_K: Array, position_m_K2: Array, link: str = ""
) -> LargeScale:
    """Draw the links between a base station and devices so far from it, at these positions.

    Args:
        scenario: whose models count.
        seed: of the run.
        ids: [K] numbers of the devices, whose draws these are.
        distance_m_K: to the base station, m.
        position_m_K2: where devices stand, m.
        link: names the base station where it is another than the cell's own, so that its draws are others.
    """
    model = scenario.path_loss
    sight_K, environment_K = np.array([g.random(2) for g in streams(seed, f"{link}line of sight", 0, ids)]).T
    is_los_K = sight_K < model.los_probability(distance_m_K)
    path_loss_db_K = model.path_loss_db(distance_m_K, is_los_K, scenario.carrier_hz, environment_K)
    if scenario.indoor_fraction > 0 and model.indoor_depth_m is not None:
        indoors = streams(seed, f"{link}indoors", 0, ids)
        inside_K, one_K, other_K = np.array([g.random(3) for g in indoors]).T
        depth_m_K, normal_K = model.indoor_depth_m * np.minimum(one_K, other_K), [g.standard_normal() for g in indoors]
        loss_db_K = penetration_loss_db(scenario.building, scenario.carrier_hz, depth_m_K, np.array(normal_K))
        path_loss_db_K = path_loss_db_K + np.where(inside_K < scenario.indoor_fraction, loss_db_K, 0.0)
    if not scenario.shadowing:
        return LargeScale(is_los_K, path_loss_db_K, np.zeros(len(ids)))
    std_db_K = model.shadowing_std_db(is_los_K)
    generators = streams(seed, f"{link}shadowing", 0, ids)
    if scenario.shadowing_distance_m is None:
        return LargeScale(is_los_K, path_loss_db_K, draw_shadowing_db(std_db_K, generators))
    field_K = draw_correlated(position_m_K2, scenario.shadowing_distance_m, generators)
    return LargeScale(is_los_K, path_loss_db_K, std_db_K * field_K)


def streams(seed: int, purpose: str, round_index: int, ids: Sequence[int]) -> list[np.random.Generator]:
    """A generator for each device."""
    return [stream(seed, purpose, round_index, k) for k in ids]
