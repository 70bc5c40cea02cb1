"""Where devices stand in a cell whose server is at the origin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from annotated_types import Ge, Le

from wavetune.errors import ConfigError
from wavetune.guarded import Checks
from wavetune.parts import Part
from wavetune.units import Array
from wavetune.wireless.validation import Checked, Positive, check_range

Generators = Sequence[np.random.Generator]

_RING = "from Scenario.min_distance_m to Scenario.cell_radius_m"


def _check_drawn(_: Placement, found: Any, client_ids: Sequence[int], *__: Any) -> str:
    fits = np.shape(found) == (len(client_ids), 2) and bool(np.all(np.isfinite(found)))
    return "" if fits else f"finite positions, {[len(client_ids), 2]}"


class Placement(Checked, Part):
    """Where devices stand in a cell, whose ring is from its minimum distance to its radius."""

    checks: ClassVar[Checks] = {"draw_m": _check_drawn}

    def require_inside(self, num_clients: int, min_distance_m: float, cell_radius_m: float) -> None:
        """ConfigError, naming position or hotspot and its distance, where a device could be put outside the ring."""

    def draw_m(self, client_ids: Sequence[int], generators: Generators, inner_m: float, outer_m: float) -> Array:
        """[K, 2] positions x, y in m, the server at the origin; each client's drawn from its own generator."""
        raise NotImplementedError


@dataclass(frozen=True)
class UniformDisc(Placement):
    """Every device is uniform over the cell, outside the minimum distance.

    With u, v ~ U[0, 1), radius = sqrt(r0^2 + u (R^2 - r0^2)) and angle = 2 pi v, uniform over the ring from r0 to R.
    """

    def draw_m(self, client_ids: Sequence[int], generators: Generators, inner_m: float, outer_m: float) -> Array:
        """[K, 2] positions, uniform over the ring."""
        uniform = _draws(generators)
        return _in_ring(uniform[:, 0], uniform[:, 1], inner_m, outer_m)


@dataclass(frozen=True)
class Hotspot(Placement):
    """A device is in a small disc with probability `fraction`, else uniform over the cell."""

    center_m: tuple[float, float] = (100.0, 0.0)
    radius_m: Positive = 30.0
    fraction: Annotated[float, Ge(0), Le(1)] = 0.5

    def require_inside(self, num_clients: int, min_distance_m: float, cell_radius_m: float) -> None:
        """ConfigError where a part of the hotspot is outside the ring."""
        distance_m = math.hypot(*self.center_m)
        reach_m = [distance_m - self.radius_m, distance_m + self.radius_m]
        check_range("the distance of a device in the hotspot", reach_m, min_distance_m, cell_radius_m, _RING)

    def draw_m(self, client_ids: Sequence[int], generators: Generators, inner_m: float, outer_m: float) -> Array:
        """[K, 2] positions, uniform over hotspot or ring."""
        uniform = _draws(generators)
        cell = _in_ring(uniform[:, 0], uniform[:, 1], inner_m, outer_m)
        spot = _in_ring(uniform[:, 0], uniform[:, 1], 0.0, self.radius_m) + np.array(self.center_m)
        return np.where(uniform[:, 2:] < self.fraction, spot, cell)


@dataclass(frozen=True)
class FixedPositions(Placement):
    """Client k stands at `positions_m[k]`."""

    kind = "fixed"
    positions_m: tuple[tuple[float, float], ...] = ()

    def require_inside(self, num_clients: int, min_distance_m: float, cell_radius_m: float) -> None:
        """ConfigError where there are too few positions, or one is outside the ring."""
        if len(self.positions_m) < num_clients:
            raise ConfigError(
                f"FixedPositions.positions_m holds {len(self.positions_m)} positions but num_clients is "
                f"{num_clients}; give one position for each client"
            )
        for k, position_m in enumerate(self.positions_m):
            name = f"the distance of FixedPositions.positions_m[{k}]"
            check_range(name, math.hypot(*position_m), min_distance_m, cell_radius_m, _RING)

    def draw_m(self, client_ids: Sequence[int], generators: Generators, inner_m: float, outer_m: float) -> Array:
        """[K, 2] positions as configured."""
        return np.array([self.positions_m[k] for k in client_ids], np.float64).reshape(-1, 2)


def _draws(generators: Generators) -> Array:
    """[K, 3] of U[0, 1)."""
    return np.array([generator.random(3) for generator in generators], np.float64).reshape(-1, 3)


def _in_ring(u: Array, v: Array, inner_m: float, outer_m: float) -> Array:
    radius_m = np.sqrt(inner_m**2 + u * (outer_m**2 - inner_m**2))
    angle = 2 * np.pi * v
    return np.stack([radius_m * np.cos(angle), radius_m * np.sin(angle)], axis=1)
