"""The planners that a sweep compares: the default one, its lower bound, the paper's greedy and the named baselines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from wavetune.allocation import baselines
from wavetune.allocation.plan import Plan
from wavetune.allocation.problem import Problem
from wavetune.errors import ConfigError, nearest
from wavetune.federation.planning import DEFAULT, PaperGreedy

PROPOSED, BOUND = "proposed", "bound"


@dataclass(frozen=True)
class Method:
    """A planner in a sweep: what it is called, what it does in words, and how it plans a problem with a seed."""

    title: str
    note: str
    plan: Callable[[Problem, int], Plan]


METHODS = {
    PROPOSED: Method("proposed planner", "subchannels, power, cut and rank together", DEFAULT.plan),
    "greedy": Method("greedy (SflLLM)", "the paper's block-coordinate method, our reconstruction", PaperGreedy().plan),
    "uniform-power": Method(
        "uniform power",
        "the same power density everywhere, greedy subchannels",
        lambda problem, seed: baselines.plan_uniform_power(problem),
    ),
    "random-rank": Method("random rank", "a rank drawn at random, the rest as the greedy", baselines.plan_random_rank),
    "random-cut": Method("random cut", "a cut drawn at random, the rest as the greedy", baselines.plan_random_cut),
    "random-subchannels": Method(
        "random subchannels", "subchannels drawn at random, the rest optimised", baselines.plan_random_subchannels
    ),
    "all-random": Method("all random", "all drawn at random, uniform power", baselines.plan_all_random),
}
NAMES = (*METHODS, BOUND)


def methods_of(text: str | None) -> tuple[str, ...]:
    """The methods that a list names, in the order of the table; all for None.

    The bound is a by-product of the proposed planner, which is then among them.

    Raises:
        ConfigError: an unknown method, or none.

    >>> methods_of("greedy, bound")
    ('proposed', 'greedy', 'bound')
    """
    if text is None:
        return NAMES
    named = {part.strip() for part in text.split(",") if part.strip()}
    for name in sorted(named):
        if name not in NAMES:
            raise ConfigError(f"--methods knows no {name!r}; {nearest(name, NAMES)}")
    if not named:
        raise ConfigError("--methods names none; choose among " + ", ".join(NAMES))
    return tuple(name for name in NAMES if name in named or (name == PROPOSED and BOUND in named))
