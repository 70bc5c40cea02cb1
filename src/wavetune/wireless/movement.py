"""How devices move in a cell from round to round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from wavetune.errors import ConfigError
from wavetune.guarded import Checks
from wavetune.parts import Part
from wavetune.units import Array
from wavetune.wireless.placement import UniformDisc
from wavetune.wireless.validation import Checked

_TRIES = 64  # of a heading that stays in the cell
_MOST_GOALS = 10_000


@dataclass(frozen=True)
class Ring:
    """Where devices may be: from `inner_m` to `outer_m` around the server at the origin."""

    inner_m: float
    outer_m: float

    def holds(self, position_m: Array) -> bool:
        """Whether a position is in the ring."""
        return self.inner_m <= float(np.hypot(*position_m)) <= self.outer_m

    def holds_line(self, start_m: Array, end_m: Array) -> bool:
        """Whether the line between two positions of the ring comes no nearer to the server than it."""
        way_m = end_m - start_m
        nearest = np.clip(-(start_m @ way_m) / max(float(way_m @ way_m), 1e-18), 0.0, 1.0)
        return float(np.hypot(*(start_m + nearest * way_m))) >= self.inner_m


def _check_path(_: Movement, found: Any, start_m: Array, step_m: float, rounds: int, ring: Ring, *__: Any) -> str:
    path_m = np.asarray(found, np.float64) if np.shape(found) == (rounds + 1, 2) else np.full((1, 2), np.nan)
    away_m = np.hypot(*path_m.T)
    inside = np.all((away_m >= ring.inner_m * (1 - 1e-9)) & (away_m <= ring.outer_m * (1 + 1e-9)))
    wanted = f"positions from {ring.inner_m:g} to {ring.outer_m:g} m around the server, {[rounds + 1, 2]}"
    return "" if inside else wanted


class Movement(Checked, Part):
    """How a device moves."""

    checks: ClassVar[Checks] = {"path_m": _check_path}

    def path_m(self, start_m: Array, step_m: float, rounds: int, ring: Ring, generator: np.random.Generator) -> Array:
        """[rounds + 1, 2] positions from the start on, in each of which the device has gone `step_m`, by its generator.

        A longer path begins as a shorter one.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Still(Movement):
    """The device stays; what moves around it changes the fading alone."""

    def path_m(self, start_m: Array, step_m: float, rounds: int, ring: Ring, generator: np.random.Generator) -> Array:
        """[rounds + 1, 2] times the start."""
        return np.tile(start_m, (rounds + 1, 1))


@dataclass(frozen=True)
class StraightLines(Movement):
    """A straight line in a random direction, and another where it would leave the cell or come too near the server."""

    def path_m(self, start_m: Array, step_m: float, rounds: int, ring: Ring, generator: np.random.Generator) -> Array:
        """[rounds + 1, 2] positions; a device that finds no way stays for a round."""
        path, heading = [start_m], generator.uniform(0, 2 * np.pi)
        for _ in range(rounds):
            for _ in range(_TRIES):
                position_m = path[-1] + step_m * np.array([np.cos(heading), np.sin(heading)])
                if ring.holds(position_m):
                    break
                heading = generator.uniform(0, 2 * np.pi)
            else:
                position_m = path[-1]
            path.append(position_m)
        return np.array(path)


@dataclass(frozen=True)
class RandomWaypoint(Movement):
    """From one point that is uniform over the cell to the next, in straight lines and without pauses.

    A next point whose line would come nearer to the server than the cell allows is drawn again.
    """

    def path_m(self, start_m: Array, step_m: float, rounds: int, ring: Ring, generator: np.random.Generator) -> Array:
        """[rounds + 1, 2] positions."""
        position_m, goal_m, path = start_m, start_m, [start_m]
        for _ in range(rounds):
            left_m = step_m
            while (away_m := float(np.hypot(*(goal_m - position_m)))) < left_m:
                left_m, position_m = left_m - away_m, goal_m
                goal_m = self._goal_m(position_m, ring, generator)
            position_m = position_m + (goal_m - position_m) * (left_m / away_m if away_m else 0.0)
            path.append(position_m)
        return np.array(path)

    def _goal_m(self, position_m: Array, ring: Ring, generator: np.random.Generator) -> Array:
        """Where to go next. Raises ConfigError where there is hardly a straight line around the server."""
        for _ in range(_MOST_GOALS):
            goal_m = UniformDisc().draw_m([0], [generator], ring.inner_m, ring.outer_m)[0]
            if ring.holds_line(position_m, goal_m):
                return goal_m
        raise ConfigError(
            f"no straight line leads from {ring.inner_m:g} m around the server to another place of a cell of "
            f"{ring.outer_m:g} m; lower world.scenario.min_distance_m, or take movement=straight_lines"
        )
