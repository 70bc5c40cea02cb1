"""A planner to compare with: the cut and the rank in the middle of what is allowed, subchannels by the greedy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wavetune.allocation.feasibility import check_feasible
from wavetune.allocation.plan import Plan, infeasible
from wavetune.allocation.problem import Problem
from wavetune.federation.planning import Planner


@dataclass(frozen=True)
class Middle(Planner):
    """What somebody takes who does not look at the delay; power is the best for it."""

    def plan(self, problem: Problem, seed: int, warm_start: Plan | None = None) -> Plan:
        """The plan; where there can be none, why."""
        feasible = check_feasible(problem)
        if not feasible.pairs:
            return infeasible(feasible.reason)
        cut, rank = feasible.pairs[len(feasible.pairs) // 2]
        return self.plan_fixed(problem, np.full(problem.num_clients, cut), np.full(problem.num_clients, rank))
