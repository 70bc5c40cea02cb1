"""Who takes part in a round: everyone, as many as meet a deadline on the round's channel, or the fastest few."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Gt

from wavetune.allocation.plan import Plan
from wavetune.allocation.problem import Problem
from wavetune.allocation.selection import PlanOf, fastest, most_within
from wavetune.units import Array

Chosen = tuple[Sequence[int], Plan | None]


@dataclass(frozen=True)
class All:
    """Everyone takes part in every round."""

    kind: Literal["all"] = field(default="all", kw_only=True)


@dataclass(frozen=True)
class Deadline:
    """As many clients, or with as many samples, as can end the round by a deadline; `min_clients` even if they cannot.

    Clients that are left out keep their own adapters as they are; the averages are over those that take part. The
    rounds to the target loss are not raised for the clients that are missing.
    """

    kind: Literal["deadline"] = field(default="deadline", kw_only=True)
    round_deadline_s: Annotated[float, Gt(0)] = 1.0
    min_clients: Annotated[int, Ge(1)] = 1
    prefer: Literal["clients", "samples"] = "clients"

    def choose(self, problem: Problem, lone_s_K: Array, plan_of: PlanOf) -> Chosen:
        """Who takes part, and their plan."""
        worth_K = problem.num_samples_K if self.prefer == "samples" else np.ones(problem.num_clients)
        return most_within(plan_of, self.round_deadline_s, lone_s_K, worth_K, self.min_clients)


@dataclass(frozen=True)
class Fastest:
    """So many clients, with whom the round is short on its channel."""

    kind: Literal["fastest"] = field(default="fastest", kw_only=True)
    count: Annotated[int, Ge(1)] = 1

    def choose(self, problem: Problem, lone_s_K: Array, plan_of: PlanOf) -> Chosen:
        """Who takes part, and their plan."""
        return fastest(plan_of, lone_s_K, self.count)


Selection = All | Deadline | Fastest
