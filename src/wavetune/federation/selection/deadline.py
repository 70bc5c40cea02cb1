"""As many clients as meet a deadline on the round's channel. Legend: K clients."""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Gt

from wavetune.allocation.problem import Problem
from wavetune.allocation.selection import PlanOf, most_within
from wavetune.federation.selection import Chosen, Selection, State
from wavetune.units import Array


@dataclass(frozen=True)
class Deadline(Selection):
    """As many clients, or with as many samples, as can end the round by a deadline; `min_clients` even if they cannot.

    Clients that are left out keep their own adapters as they are; the averages are over those that take part. The
    rounds to the target loss are not raised for the clients that are missing.
    """

    wants = "min_clients"
    round_deadline_s: Annotated[float, Gt(0)] = 1.0
    min_clients: Annotated[int, Ge(1)] = 1
    prefer: Literal["clients", "samples"] = "clients"

    @property
    def deadline_s(self) -> float:
        """The deadline, as configured."""
        return self.round_deadline_s

    def choose(
        self, problem: Problem, lone_s_K: Array, plan_of: PlanOf, state: State, draw: np.random.Generator
    ) -> Chosen:
        """Who takes part, and their plan."""
        worth_K = problem.num_samples_K if self.prefer == "samples" else np.ones(problem.num_clients)
        return most_within(plan_of, self.round_deadline_s, lone_s_K, worth_K, self.min_clients)
