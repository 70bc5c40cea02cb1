"""The delay-energy curve: the fewest joules to the target loss at each total delay, from the least delay on.

Its points minimise the energy under a limit on the delay, so that the curve need not be convex; a weight on energy
picks the points of its lower hull. The first point is as fast as the certified least-delay plan, less the joules that
clients waste who hurry only to wait.
Shape suffix: K clients.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wavetune.allocation.energy_bound import least_energy_j
from wavetune.allocation.energy_search import improve
from wavetune.allocation.energy_terms import EnergyTerms
from wavetune.allocation.feasibility import require_feasible
from wavetune.allocation.plan import Plan, rounds_of
from wavetune.allocation.planner import plan as fastest_plan
from wavetune.allocation.problem import Problem

_FIRST, _LAST = 0.005, 3.0  # The curve runs from 0.5% to 300% above the least delay.


@dataclass(frozen=True)
class TradeOffPoint:
    """A plan on the curve, its energy to the target loss, and what no plan as fast can go below (0 if unknown)."""

    plan: Plan
    energy_j: float
    energy_bound_j: float


@dataclass(frozen=True)
class TradeOff:
    """The curve, fastest point first; empty, with the reason, where no plan exists."""

    points: tuple[TradeOffPoint, ...]
    reason: str = ""

    def prices_s_per_j(self) -> list[float]:
        """Seconds a joule saved costs on the way to each point from the one before; infinite for the first."""
        pairs = zip(self.points[:-1], self.points[1:], strict=True)
        saved = [(b.plan.delay_s - a.plan.delay_s, a.energy_j - b.energy_j) for a, b in pairs]
        return [0.0, *(float(s / j) if j > 0 else np.inf for s, j in saved)][: len(self.points)]


def trade_off(problem: Problem, num_points: int, time_limit_s: float | None = None) -> TradeOff:
    """Curve of delay and energy to the target loss.

    Args:
        problem: bands, clients, costs; its energy coefficients count the computing.
        num_points: points of the curve, the fastest plan included.
        time_limit_s: for the fastest plan's search.

    Returns:
        The points; delays rise and energies fall.
    """
    fastest = fastest_plan(problem, time_limit_s)
    if fastest.status != "ok":
        return TradeOff((), fastest.reason)
    points: list[TradeOffPoint] = []
    per_client = problem.cut_per_client or problem.rank_slack is not None  # which the bound does not cover
    at = fastest
    for slack in (0.0, *np.geomspace(_FIRST, _LAST, num_points - 1)):
        limit_s = fastest.delay_s * (1.0 + float(slack))
        found = improve(problem, EnergyTerms(target_delay_s=limit_s, least="energy"), fastest, at)
        if found.status == "ok" and _energy_j(problem, found) < _energy_j(problem, at):
            at = found
        bound_j = 0.0 if per_client else min(least_energy_j(problem, at, limit_s), _energy_j(problem, at))
        points.append(TradeOffPoint(require_feasible(problem, at), _energy_j(problem, at), bound_j))
    return TradeOff(tuple(points))


def _energy_j(problem: Problem, plan: Plan) -> float:
    return rounds_of(problem, plan.rank_K) * plan.energy.total_j
