"""Where devices stand in a cell whose server is at the origin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Le

from wavetune.errors import ConfigError
from wavetune.units import Array
from wavetune.wireless.validation import Positive, check_fields, check_range


@dataclass(frozen=True)
class UniformDisc:
    """Every device is uniform over the cell, outside the minimum distance."""

    kind: Literal["uniform_disc"] = field(default="uniform_disc", kw_only=True)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Hotspot:
    """A device is in a small disc with probability `fraction`, else uniform over the cell."""

    kind: Literal["hotspot"] = field(default="hotspot", kw_only=True)
    center_m: tuple[float, float] = (100.0, 0.0)
    radius_m: Positive = 30.0
    fraction: Annotated[float, Ge(0), Le(1)] = 0.5

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class FixedPositions:
    """Client k stands at `positions_m[k]`."""

    kind: Literal["fixed"] = field(default="fixed", kw_only=True)
    positions_m: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)


Placement = UniformDisc | Hotspot | FixedPositions


def check_placement(placement: Placement, num_clients: int, min_distance_m: float, cell_radius_m: float) -> None:
    """Refuse a placement that could put a device outside the ring min_distance_m <= d <= cell_radius_m.

    Raises:
        ConfigError: names the position or hotspot, its distance and the ring.
    """
    source = "from Scenario.min_distance_m to Scenario.cell_radius_m"
    if isinstance(placement, Hotspot):
        distance_m = math.hypot(*placement.center_m)
        reach_m = [distance_m - placement.radius_m, distance_m + placement.radius_m]
        check_range("the distance of a device in the hotspot", reach_m, min_distance_m, cell_radius_m, source)
    elif isinstance(placement, FixedPositions):
        if len(placement.positions_m) < num_clients:
            raise ConfigError(
                f"FixedPositions.positions_m holds {len(placement.positions_m)} positions but num_clients is "
                f"{num_clients}; give one position for each client"
            )
        for k, position_m in enumerate(placement.positions_m):
            name = f"the distance of FixedPositions.positions_m[{k}]"
            check_range(name, math.hypot(*position_m), min_distance_m, cell_radius_m, source)


def draw_positions_m(
    placement: Placement,
    client_ids: Sequence[int],
    generators: Sequence[np.random.Generator],
    min_distance_m: float,
    cell_radius_m: float,
) -> Array:
    """Draw one position per client, each from that client's own generator.

    Model: with u, v ~ U[0, 1), radius = sqrt(r0^2 + u (R^2 - r0^2)) and angle = 2 pi v, uniform over the ring
    r0 = min_distance_m, R = cell_radius_m.

    Args:
        placement: how devices are placed.
        client_ids: [K] identities, which index fixed positions.
        generators: [K] one random generator per client.
        min_distance_m: inner radius of the ring, m.
        cell_radius_m: outer radius of the ring, m.

    Returns:
        [K, 2] positions x, y in m, the server at the origin.

    Ignores: mobility; devices stay where they are drawn.
    """
    if isinstance(placement, FixedPositions):
        return np.array([placement.positions_m[k] for k in client_ids], np.float64).reshape(-1, 2)
    uniform = np.array([generator.random(3) for generator in generators], np.float64).reshape(-1, 3)
    cell = _in_ring(uniform[:, 0], uniform[:, 1], min_distance_m, cell_radius_m)
    if isinstance(placement, UniformDisc):
        return cell
    spot = _in_ring(uniform[:, 0], uniform[:, 1], 0.0, placement.radius_m) + np.array(placement.center_m)
    return np.where(uniform[:, 2:] < placement.fraction, spot, cell)


def _in_ring(u: Array, v: Array, inner_m: float, outer_m: float) -> Array:
    radius_m = np.sqrt(inner_m**2 + u * (outer_m**2 - inner_m**2))
    angle = 2 * np.pi * v
    return np.stack([radius_m * np.cos(angle), radius_m * np.sin(angle)], axis=1)
