"""The fastest few clients on the round's channel. Legend: K clients."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge

from wavetune.allocation.problem import Problem
from wavetune.allocation.selection import PlanOf, fastest
from wavetune.federation.selection import Chosen, Selection, State
from wavetune.units import Array


@dataclass(frozen=True)
class Fastest(Selection):
    """So many clients, with whom the round is short on its channel."""

    wants = "count"
    count: Annotated[int, Ge(1)] = 1

    def choose(
        self, problem: Problem, lone_s_K: Array, plan_of: PlanOf, state: State, draw: np.random.Generator
    ) -> Chosen:
        """Who takes part, and their plan."""
        return fastest(plan_of, lone_s_K, self.count)
