"""The planners that a method can name: each turns a planning problem into a plan."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Gt

from wavetune.allocation.baselines import plan_all_random, plan_random_subchannels, plan_uniform_power
from wavetune.allocation.delay import RoundLoad
from wavetune.allocation.energy_terms import EnergyTerms
from wavetune.allocation.feasibility import why_infeasible
from wavetune.allocation.fedsllm.learning_accuracy import LearningModel
from wavetune.allocation.fedsllm.subchannels import Schedule, best_schedule, plan_subchannels
from wavetune.allocation.greedy import greedy_owners, plan_sflllm
from wavetune.allocation.plan import Plan, infeasible
from wavetune.allocation.planner import plan_fixed
from wavetune.allocation.power import with_best_power
from wavetune.allocation.problem import IntArray, Problem
from wavetune.errors import ConfigError
from wavetune.federation.facts import CUT, ONE_CUT, ONE_RANK
from wavetune.guarded import Checks, returning
from wavetune.parts import Part


class Planner(Part):
    """Turns a planning problem into a plan."""

    checks: ClassVar[Checks] = dict.fromkeys(
        ("plan", "plan_fixed", "replan", "within_budgets"),
        returning(Plan, "a Plan"),
    )

    chooses_local_steps: ClassVar[bool] = False
    searches: ClassVar[bool] = False  # for as long as its `time_limit_s`, if that is set

    @property
    def search_s(self) -> float | None:
        """Seconds that the search of a plan may take, None without a limit."""
        return None

    def plan(self, problem: Problem, seed: int, warm_start: Plan | None = None) -> Plan:
        """Plan of a problem, which may start from the plan of a similar one."""
        raise NotImplementedError

    def plan_fixed(self, problem: Problem, cut_K: IntArray, rank_K: IntArray, warm_start: Plan | None = None) -> Plan:
        """Plan of given cuts and ranks, one per client: by default the best power on the greedy's owners."""
        if reason := why_infeasible(problem, cut_K, rank_K):
            return infeasible(reason)
        plan = with_best_power(problem, cut_K, rank_K, *greedy_owners(problem, cut_K, rank_K))
        unheard = "the greedy leaves a client only subchannels on which nobody hears it"
        return plan if plan.delay_s < math.inf else infeasible(unheard)

    def replan(self, problem: Problem, start: Plan, seed: int) -> Plan:
        """Plan with the cuts and ranks of another one, started from it."""
        if np.ptp(start.cut_K) or np.ptp(start.rank_K):
            return self.plan_fixed(problem, start.cut_K, start.rank_K, start)
        narrowed = problem.restrict([int(start.cut_K[0])], [int(start.rank_K[0])])
        return self.plan(narrowed, seed, warm_start=start)

    def allowing(self, problem: Problem) -> Problem:
        """The problem with what this planner leaves to single clients."""
        return problem

    @property
    def minds_energy(self) -> bool:
        """Whether energy has a price, a budget or is what is minimised."""
        return False

    def cost(self, problem: Problem, plan: Plan) -> float:
        """What this planner minimises; infinite where there is no plan."""
        return plan.delay_s

    def by(self, deadline_s: float) -> Planner:
        """This planner where a round must end by a deadline, which who saves energy must not miss by it."""
        return self

    def within_budgets(self, problem: Problem, plan: Plan, load: RoundLoad) -> Plan:
        """A plan, slowed down where the energy of what it really asks would exceed the budgets."""
        return plan

    def schedule(self, problem: Problem) -> Schedule:
        """Local steps and rounds, of a planner that chooses them."""
        raise NotImplementedError


@dataclass(frozen=True)
class Optimal(Planner):
    """The default: all decisions together, with a lower bound that no plan can beat; may be cut short.

    Without a time limit the plan depends on the problem alone, so that a run can be repeated. Where energy counts the
    powers are exact and the rest is found by local search; the bound then still holds for the delay.

    Args:
        time_limit_s: for the search of a plan.
        energy_weight_s_per_j: seconds of delay that a joule less is worth (`wavetune trade-off` shows the prices).
        energy_budget_j: most that a client may spend in a round, computing and sending.
        total_energy_budget_j: most that clients and server may spend in a round together.
        cut_per_client: every client may get a cut of its own, else all have the same.
        rank_per_client: single clients' ranks are raised above the best common one where time is left.
        rank_slack: share of the delay that may be given up for that.
        minimise: the delay with the weighted energy, or the energy alone within `round_deadline_s`.
        round_deadline_s: a round's planned delay must not be above it.
    """

    searches = True
    time_limit_s: Annotated[float, Gt(0)] | None = None
    energy_weight_s_per_j: Annotated[float, Ge(0)] = 0.0
    energy_budget_j: Annotated[float, Gt(0)] | None = None
    total_energy_budget_j: Annotated[float, Gt(0)] | None = None
    cut_per_client: bool = False
    rank_per_client: bool = False
    rank_slack: Annotated[float, Ge(0)] = 0.01
    minimise: Literal["delay", "energy"] = "delay"
    round_deadline_s: Annotated[float, Gt(0)] | None = None

    def __post_init__(self) -> None:
        if self.minimise == "energy" and self.round_deadline_s is None:
            raise ConfigError(
                "method.planner.minimise is 'energy', which is least if a round takes forever; set "
                "method.planner.round_deadline_s"
            )

    @property
    def energy_terms(self) -> EnergyTerms:
        """What energy is worth and may be spent."""

        def unless_none(most: float | None) -> float:
            return math.inf if most is None else most

        return EnergyTerms(
            weight_s_per_j=self.energy_weight_s_per_j,
            budget_j=unless_none(self.energy_budget_j),
            total_budget_j=unless_none(self.total_energy_budget_j),
            deadline_s=unless_none(self.round_deadline_s),
            least=self.minimise,
        )

    @property
    def search_s(self) -> float | None:
        """Seconds that the search of a plan may take, None without a limit."""
        return self.time_limit_s

    def plan(self, problem: Problem, seed: int, warm_start: Plan | None = None) -> Plan:
        """Plan of a problem, started from the plan of a similar one if given; the seed is not used."""
        from wavetune.allocation.energy_search import (
            plan_with_energy,
        )  # importing the compiler takes longer than a recipe

        return plan_with_energy(problem, self.energy_terms, self.time_limit_s, warm_start)

    @property
    def minds_energy(self) -> bool:
        """Whether energy has a price, a budget or is what is minimised."""
        return not self.energy_terms.idle

    def replan(self, problem: Problem, start: Plan, seed: int) -> Plan:
        """Plan with the cuts and ranks of another one, started from it; server shares go with these."""
        if problem.share_server:
            return self.plan_fixed(problem, start.cut_K, start.rank_K, start)
        return super().replan(problem, start, seed)

    def cost(self, problem: Problem, plan: Plan) -> float:
        """Delay with the weighted energy, or the energy; infinite where there is no plan."""
        return plan.delay_s if plan.status != "ok" else self.energy_terms.cost(problem, plan)

    def by(self, deadline_s: float) -> Planner:
        """The same with the earlier of both deadlines, where energy counts."""
        if not self.minds_energy:
            return self
        return replace(self, round_deadline_s=min(deadline_s, self.round_deadline_s or math.inf))

    def within_budgets(self, problem: Problem, plan: Plan, load: RoundLoad) -> Plan:
        """A plan, slowed down where the energy of what it really asks would exceed the budgets."""
        from wavetune.allocation.energy_budget import within_budgets

        return within_budgets(problem, plan, load, self.energy_terms)

    def allowing(self, problem: Problem) -> Problem:
        """The problem with what this planner leaves to single clients."""
        slack = self.rank_slack if self.rank_per_client else None
        return replace(problem, cut_per_client=self.cut_per_client, rank_slack=slack)

    def plan_fixed(self, problem: Problem, cut_K: IntArray, rank_K: IntArray, warm_start: Plan | None = None) -> Plan:
        """Plan of given cuts and ranks, one per client; its bound holds for these."""
        fastest = plan_fixed(problem, cut_K, rank_K, self.time_limit_s, warm_start)
        if fastest.status != "ok" or self.energy_terms.idle:
            return fastest
        from wavetune.allocation.energy_search import improve

        return improve(problem, self.energy_terms, fastest, warm_start, fixed=True)


@dataclass(frozen=True)
class PaperGreedy(Planner):
    """SflLLM's own method, as we reconstruct it: greedy subchannels, exact power, exhaustive cut and rank, in turns.

    With `whole_band` no client drops out of the hand-out at its power cap.
    """

    whole_band: bool = False

    def plan(self, problem: Problem, seed: int, warm_start: Plan | None = None) -> Plan:
        """Plan of a problem; neither seed nor start is used."""
        return plan_sflllm(problem, whole_band=self.whole_band)


@dataclass(frozen=True)
class UniformPower(Planner):
    """The same power density everywhere, on the better of both greedy hand-outs."""

    def plan(self, problem: Problem, seed: int, warm_start: Plan | None = None) -> Plan:
        """Plan of a problem; neither seed nor start is used."""
        return plan_uniform_power(problem)


@dataclass(frozen=True)
class RandomSubchannels(Planner):
    """Subchannels drawn at random, the rest optimised."""

    def plan(self, problem: Problem, seed: int, warm_start: Plan | None = None) -> Plan:
        """Plan of a problem; the start is not used."""
        return plan_random_subchannels(problem, seed)


@dataclass(frozen=True)
class AllRandom(Planner):
    """Everything drawn at random, power uniform."""

    def plan(self, problem: Problem, seed: int, warm_start: Plan | None = None) -> Plan:
        """Plan of a problem; the start is not used."""
        return plan_all_random(problem, seed)


@dataclass(frozen=True)
class Fedsllm(Planner):
    """FedsLLM's bandwidths, as we reconstruct them, on whole subchannels at full power; cut and rank that suit them.

    It also chooses the local steps of a round, from the learning accuracy, where run.local_steps is 0.
    """

    needs = (CUT, ONE_CUT, ONE_RANK)
    chooses_local_steps = True
    learning: LearningModel = field(default_factory=LearningModel)

    def plan(self, problem: Problem, seed: int, warm_start: Plan | None = None) -> Plan:
        """Plan of a problem; neither seed nor start is used."""
        return plan_subchannels(problem, self.learning)

    def schedule(self, problem: Problem) -> Schedule:
        """Local steps and rounds: those of the best learning accuracy, or those that the local steps given reach."""
        if problem.local_steps:
            return Schedule.of(problem.local_steps, self.learning)
        return best_schedule(problem, self.learning)
