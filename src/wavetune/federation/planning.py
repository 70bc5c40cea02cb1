"""The planners that a method can name: each turns a planning problem into a plan."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Gt

from wavetune.allocation.baselines import plan_all_random, plan_random_subchannels, plan_uniform_power
from wavetune.allocation.bcd import plan_sflllm
from wavetune.allocation.fedsllm_subchannels import Schedule, best_schedule, plan_subchannels
from wavetune.allocation.learning_accuracy import LearningModel
from wavetune.allocation.plan import Plan
from wavetune.allocation.planner import plan as best_plan
from wavetune.allocation.problem import Problem


@dataclass(frozen=True)
class Optimal:
    """The default: all decisions together, with a lower bound that no plan can beat; may be cut short.

    Without a time limit the plan depends on the problem alone, so that a run can be repeated.
    """

    kind: Literal["optimal"] = field(default="optimal", kw_only=True)
    time_limit_s: Annotated[float, Gt(0)] | None = None

    def plan(self, problem: Problem, seed: int, warm_start: Plan | None = None) -> Plan:
        """Plan of a problem, started from the plan of a similar one if given; the seed is not used."""
        return best_plan(problem, self.time_limit_s, warm_start)


@dataclass(frozen=True)
class PaperGreedy:
    """SflLLM's own method, as we reconstruct it: greedy subchannels, exact power, exhaustive cut and rank, in turns."""

    kind: Literal["paper_greedy"] = field(default="paper_greedy", kw_only=True)

    def plan(self, problem: Problem, seed: int, warm_start: Plan | None = None) -> Plan:
        """Plan of a problem; neither seed nor start is used."""
        return plan_sflllm(problem)


@dataclass(frozen=True)
class UniformPower:
    """Greedy subchannels, the same power density everywhere."""

    kind: Literal["uniform_power"] = field(default="uniform_power", kw_only=True)

    def plan(self, problem: Problem, seed: int, warm_start: Plan | None = None) -> Plan:
        """Plan of a problem; neither seed nor start is used."""
        return plan_uniform_power(problem)


@dataclass(frozen=True)
class RandomSubchannels:
    """Subchannels drawn at random, the rest optimised."""

    kind: Literal["random_subchannels"] = field(default="random_subchannels", kw_only=True)

    def plan(self, problem: Problem, seed: int, warm_start: Plan | None = None) -> Plan:
        """Plan of a problem; the start is not used."""
        return plan_random_subchannels(problem, seed)


@dataclass(frozen=True)
class AllRandom:
    """Everything drawn at random, power uniform."""

    kind: Literal["all_random"] = field(default="all_random", kw_only=True)

    def plan(self, problem: Problem, seed: int, warm_start: Plan | None = None) -> Plan:
        """Plan of a problem; the start is not used."""
        return plan_all_random(problem, seed)


@dataclass(frozen=True)
class Fedsllm:
    """FedsLLM's bandwidths, as we reconstruct them, on whole subchannels at full power; cut and rank that suit them.

    It also chooses the local steps of a round, from the learning accuracy, where run.local_steps is 0.
    """

    kind: Literal["fedsllm"] = field(default="fedsllm", kw_only=True)
    learning: LearningModel = field(default_factory=LearningModel)

    def plan(self, problem: Problem, seed: int, warm_start: Plan | None = None) -> Plan:
        """Plan of a problem; neither seed nor start is used."""
        return plan_subchannels(problem, self.learning)

    def schedule(self, problem: Problem) -> Schedule:
        """Local steps and rounds: those of the best learning accuracy, or those that the local steps given reach."""
        if problem.local_steps:
            return Schedule.of(problem.local_steps, self.learning)
        return best_schedule(problem, self.learning)


Planner = Optimal | PaperGreedy | UniformPower | RandomSubchannels | AllRandom | Fedsllm
DEFAULT: Planner = Optimal()
