"""Clients drawn at random, as in federated averaging (McMahan et al., AISTATS 2017), where a fraction C takes part."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge

from wavetune.allocation.problem import Problem
from wavetune.allocation.selection import PlanOf
from wavetune.federation.selection import Chosen, Selection, State
from wavetune.units import Array


@dataclass(frozen=True)
class AtRandom(Selection):
    """So many clients, drawn anew every round without a look at the channel; fewer where these have no plan together.

    Who cannot have a plan even by itself is not drawn.
    """

    wants = "count"
    count: Annotated[int, Ge(1)] = 1

    def choose(
        self, problem: Problem, lone_s_K: Array, plan_of: PlanOf, state: State, draw: np.random.Generator
    ) -> Chosen:
        """Who takes part, and their plan."""
        drawn = [k for k in draw.permutation(problem.num_clients).tolist() if np.isfinite(lone_s_K[k])][: self.count]
        for n in range(len(drawn), 0, -1):
            clients = sorted(drawn[:n])
            if (plan := plan_of(clients)).status == "ok":
                return clients, plan
        return [], None
