"""The planners that a sweep compares: the default one, its lower bound, the paper's greedy and the named baselines."""

from collections.abc import Callable
from dataclasses import dataclass

from wavetune.allocation import baselines, schedulers
from wavetune.allocation.genetic import plan_genetic
from wavetune.allocation.greedy import plan_sflllm
from wavetune.allocation.plan import Plan
from wavetune.allocation.planner import plan as best_plan
from wavetune.allocation.problem import Problem
from wavetune.errors import ConfigError, nearest
from wavetune.federation.planning import Planner
from wavetune.parts import named

PROPOSED, BOUND = "proposed", "bound"


@dataclass(frozen=True)
class Method:
    """A planner in a sweep: what it is called, what it does in words, and how it plans a problem with a seed.

    `poses` makes of the cell's problem the one that it solves, where that is another.
    """

    title: str
    note: str
    plan: Callable[[Problem, int], Plan]
    poses: Callable[[Problem], Problem] = lambda problem: problem


def _scheduled(title: str, what: str, scheduler: schedulers.Scheduler) -> Method:
    note = f"cut {schedulers.CUT} and rank {schedulers.RANK} fixed, {what}, every client at full power"
    return Method(title, note, lambda problem, seed: schedulers.plan_by(problem, scheduler))


METHODS = {
    PROPOSED: Method(
        "proposed planner", "subchannels, power, cut and rank together", lambda problem, seed: best_plan(problem)
    ),
    "greedy": Method(
        "greedy (SflLLM)",
        "the paper's method, our reconstruction: greedy subchannels, exact power, exhaustive cut and rank, in turns",
        lambda problem, seed: plan_sflllm(problem),
    ),
    "greedy-whole-band": Method(
        "greedy, whole band",
        "the same, but no client drops out at its power cap: all subchannels are handed out",
        lambda problem, seed: plan_sflllm(problem, whole_band=True),
    ),
    "genetic": Method(
        "genetic search",
        "owners, cut and rank by a genetic algorithm of 1,200 trials; exact power",
        plan_genetic,
    ),
    "fedavg-lora": Method(
        "FedAvg-LoRA, unsplit",
        "no cut: every client trains the whole model at rank 8; subchannels and power by the proposed planner",
        lambda problem, seed: best_plan(problem),
        baselines.unsplit,
    ),
    "proportional-fair": _scheduled(
        "proportional fair", "subchannels by the proportional fair rule", schedulers.proportional_fair
    ),
    "max-gain": _scheduled("max gain", "subchannels to whom is heard best", schedulers.max_gain),
    "round-robin": _scheduled("round robin", "subchannels in turn", schedulers.round_robin),
    "equal-shares": _scheduled("equal shares", "neighbouring subchannels in equal shares", schedulers.equal_shares),
    "uniform-power": Method(
        "uniform power",
        "the same power density everywhere; the better of both greedy hand-outs, exhaustive cut and rank",
        lambda problem, seed: baselines.plan_uniform_power(problem),
    ),
    "random-rank": Method(
        "random rank",
        "a rank drawn at random; the rest by the proposed planner",
        lambda problem, seed: baselines.plan_random_rank(problem, seed, best_plan),
    ),
    "random-cut": Method(
        "random cut",
        "a cut drawn at random; the rest by the proposed planner",
        lambda problem, seed: baselines.plan_random_cut(problem, seed, best_plan),
    ),
    "random-subchannels": Method(
        "random subchannels",
        "subchannels drawn at random; exact power, exhaustive cut and rank",
        baselines.plan_random_subchannels,
    ),
    "all-random": Method(
        "all random", "subchannels, cut and rank drawn at random; uniform power", baselines.plan_all_random
    ),
}
NAMES = (*METHODS, BOUND)


def method_of(name: str) -> Method:
    """The method of the table, or that of somebody else's planner, `package.module:Class` with its default settings.

    Raises: ConfigError where there is none of this name.
    """
    if name in METHODS or ":" not in name:
        return METHODS[name]
    kind = named(name, Planner, "--methods")
    try:
        planner = kind()
    except TypeError as error:
        raise ConfigError(f"--methods: {name} has settings without defaults ({error}); give it some") from None
    return Method(name.rpartition(":")[2], (kind.__doc__ or name).strip().splitlines()[0], planner.plan)


def title(method: str) -> str:
    """What a method is called."""
    return "lower bound" if method == BOUND else method_of(method).title


def methods_of(text: str | None) -> tuple[str, ...]:
    """The methods that a list names, in the order of the table, then other people's planners; the table for None.

    The bound is a by-product of the proposed planner, which is then among them.

    Raises:
        ConfigError: an unknown method, or none.

    >>> methods_of("greedy, bound")
    ('proposed', 'greedy', 'bound')
    """
    if text is None:
        return NAMES
    wanted = dict.fromkeys(part.strip() for part in text.split(",") if part.strip())
    for name in sorted(wanted):
        if ":" in name:
            method_of(name)
        elif name not in NAMES:
            raise ConfigError(f"--methods knows no {name!r}; {nearest(name, NAMES)}")
    if not wanted:
        raise ConfigError("--methods names none; choose among " + ", ".join(NAMES))
    own = (name for name in NAMES if name in wanted or (name == PROPOSED and BOUND in wanted))
    return (*own, *(name for name in wanted if name not in NAMES))
