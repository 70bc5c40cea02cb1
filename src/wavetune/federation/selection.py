"""Who takes part in a round: everyone, as many as meet a deadline on the round's channel, or the fastest few."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Gt

from wavetune.allocation.plan import Plan
from wavetune.allocation.problem import Problem
from wavetune.allocation.selection import PlanOf, fastest, most_within
from wavetune.errors import ConfigError
from wavetune.federation.facts import CLIENTS, NEW_PLANS
from wavetune.parts import Extent, Part
from wavetune.units import Array

Chosen = tuple[Sequence[int], Plan | None]


class Selection(Part):
    """Who takes part in a round."""

    needs = (CLIENTS, NEW_PLANS)
    everyone: ClassVar[bool] = False  # nobody is left out

    @property
    def deadline_s(self) -> float:
        """When those that are chosen must be done."""
        return math.inf

    def choose(self, problem: Problem, lone_s_K: Array, plan_of: PlanOf) -> Chosen:
        """Who takes part, and their plan; None where there is none."""
        raise NotImplementedError


@dataclass(frozen=True)
class All(Selection):
    """Everyone takes part in every round."""

    needs = ()
    everyone = True


@dataclass(frozen=True)
class Deadline(Selection):
    """As many clients, or with as many samples, as can end the round by a deadline; `min_clients` even if they cannot.

    Clients that are left out keep their own adapters as they are; the averages are over those that take part. The
    rounds to the target loss are not raised for the clients that are missing.
    """

    round_deadline_s: Annotated[float, Gt(0)] = 1.0
    min_clients: Annotated[int, Ge(1)] = 1
    prefer: Literal["clients", "samples"] = "clients"

    @property
    def deadline_s(self) -> float:
        """The deadline, as configured."""
        return self.round_deadline_s

    def fits(self, path: str, extent: Extent) -> None:
        """Refuse more clients than there are."""
        _require_that_many(f"{path}.min_clients", self.min_clients, extent)

    def choose(self, problem: Problem, lone_s_K: Array, plan_of: PlanOf) -> Chosen:
        """Who takes part, and their plan."""
        worth_K = problem.num_samples_K if self.prefer == "samples" else np.ones(problem.num_clients)
        return most_within(plan_of, self.round_deadline_s, lone_s_K, worth_K, self.min_clients)


@dataclass(frozen=True)
class Fastest(Selection):
    """So many clients, with whom the round is short on its channel."""

    count: Annotated[int, Ge(1)] = 1

    def fits(self, path: str, extent: Extent) -> None:
        """Refuse more clients than there are."""
        _require_that_many(f"{path}.count", self.count, extent)

    def choose(self, problem: Problem, lone_s_K: Array, plan_of: PlanOf) -> Chosen:
        """Who takes part, and their plan."""
        return fastest(plan_of, lone_s_K, self.count)


def _require_that_many(path: str, wanted: int, extent: Extent) -> None:
    if wanted > extent.num_clients:
        raise ConfigError(f"{path} is {wanted} but there are {extent.num_clients} clients; give at most that")
