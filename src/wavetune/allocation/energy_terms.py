"""Energy terms of a plan: the price of a joule, budgets of joules, a deadline.

Shape suffix: K clients.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from wavetune.allocation.plan import Plan, rounds_of
from wavetune.allocation.problem import Problem
from wavetune.errors import ConfigError


@dataclass(frozen=True)
class EnergyTerms:
    """What a joule is worth, and how many may be spent in a round.

    Args:
        weight_s_per_j: seconds of delay that are given for a joule less, of all clients and the server together.
        budget_j: cap on every client's energy of a round, computing and sending.
        total_budget_j: cap on the energy of a round, of all clients and the server together.
        deadline_s: a round must not last longer.
        target_delay_s: nor all rounds to the target loss together.
        least: what is minimised, the delay to the target plus the weighted energy, or the energy alone.
    """

    weight_s_per_j: float = 0.0
    budget_j: float = np.inf
    total_budget_j: float = np.inf
    deadline_s: float = np.inf
    target_delay_s: float = np.inf
    least: Literal["delay", "energy"] = "delay"

    def __post_init__(self) -> None:
        if self.least == "energy" and not np.isfinite(min(self.deadline_s, self.target_delay_s)):
            raise ConfigError("the least energy takes forever; give the round a deadline, round_deadline_s")

    @property
    def idle(self) -> bool:
        """Whether the delay alone counts."""
        return self == EnergyTerms()

    @property
    def budgeted(self) -> bool:
        """Whether there is a budget of joules."""
        return bool(np.isfinite(self.budget_j) or np.isfinite(self.total_budget_j))

    def without_budgets(self) -> EnergyTerms:
        """The same with as many joules as one likes."""
        return replace(self, budget_j=np.inf, total_budget_j=np.inf)

    def cost(self, problem: Problem, plan: Plan) -> float:
        """What is minimised: seconds to the target (the weighted energy added), or joules to the target."""
        joules = rounds_of(problem, plan.rank_K) * plan.energy.total_j
        return joules if self.least == "energy" else plan.delay_s + self.weight_s_per_j * joules

    def kept(self, plan: Plan, forgiven: float = 1e-6) -> bool:
        """Whether a plan keeps the budgets and the deadline."""
        spent_j = float(np.max(plan.energy.client_compute_j_K + plan.energy.client_radio_j_K))
        pairs = (
            (spent_j, self.budget_j),
            (plan.energy.total_j, self.total_budget_j),
            (plan.phases.round_s, self.deadline_s),
            (plan.delay_s, self.target_delay_s),
        )
        return all(value <= most * (1 + forgiven) for value, most in pairs)
