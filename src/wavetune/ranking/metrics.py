"""The numbers that methods are compared by: of a whole run, of its curve, and of its disturbed twins."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from wavetune.estimate import finite_mean
from wavetune.ranking.curves import RESOURCES, Quality
from wavetune.ranking.disturbances import DISTURBANCES
from wavetune.records.reading import Run
from wavetune.reporting.format import bits, joules, number, percent, seconds
from wavetune.reporting.mixture import mixed_reward

DIRECTIONS = "↑: more is better, ↓: less is better."


@dataclass(frozen=True)
class Metric:
    """A number, by name, and how it is shown; `higher` is better, or lower; `costs` is the resource it depends on."""

    name: str
    higher: bool
    show: Callable[[float], str] = number
    costs: str = ""

    @property
    def title(self) -> str:
        """The name without its unit, with the direction that is better."""
        return f"{self.name.removesuffix('_s').removesuffix('_j')} {'↑' if self.higher else '↓'}"


@dataclass(frozen=True)
class OfRun(Metric):
    """A number of a run, NaN where it is not known; where its unit is the first method's, from its run of that seed."""

    of: Callable[[Run, Run], float] = lambda run, first: math.nan


def _after(name: str) -> Callable[[Run, Run], float]:
    return lambda run, _: finite_mean(getattr(run.summary.evaluation.after, name))


def _validation_loss(run: Run, _: Run) -> float:
    """Of the one model of all clients; where they have models of their own it would be of other rows."""
    return math.nan if run.summary.personal else run.summary.validation_loss.after


def _mixed(run: Run, first: Run) -> float:
    """In standard deviations of the first method's answers before alignment."""
    own = run.summary.alignment
    return mixed_reward(own.after, own.lambdas, first.summary.alignment.scale)


def _uplink_bits(run: Run, _: Run) -> float:
    return sum(count for kind, count in run.summary.bits.items() if kind.endswith("_up"))


OF_RUNS = (
    OfRun("validation loss", False, of=_validation_loss),
    OfRun("own accuracy", True, percent, of=_after("own_accuracy_K")),
    OfRun("foreign accuracy", True, percent, of=_after("foreign_accuracy_K")),
    OfRun("own loss", False, of=_after("own_loss_K")),
    OfRun("foreign loss", False, of=_after("foreign_loss_K")),
    OfRun("mixed reward (sd)", True, of=_mixed),
    OfRun("true mixed score", True, of=lambda run, _: finite_mean(run.summary.alignment.after.get("true_mixed_K", ()))),
    OfRun("uplink bits", False, bits, "bits", _uplink_bits),
    OfRun("delay_s", False, seconds, "delay", lambda run, _: run.summary.delay_s),
    OfRun("energy_j", False, joules, "energy", lambda run, _: run.summary.energy_j),
)
_UNITS = {"s": "_s", "J": "_j", "bit": ""}


def final(quality: Quality) -> Metric:
    """The quality of the last evaluation."""
    return Metric(f"final {quality.name}", quality.higher, quality.show)


def to_target(resource: str) -> Metric:
    """Cost-to-Target: what is spent until the target is met."""
    found = RESOURCES[resource]
    return Metric(f"{resource} to target{_UNITS[found.unit]}", False, found.show, resource)


def within(resource: str, quality: Quality) -> Metric:
    """Quality-under-Budget: the best quality before more than the budget is spent."""
    return Metric(f"{quality.name} within {resource} budget", quality.higher, quality.show, resource)


def change_under(disturbance: str, quality: Quality) -> Metric:
    """Robustness: the last evaluation of the disturbed run minus that of the same run undisturbed."""

    def show(value: float) -> str:
        return ("+" if value > 0 else "") + (quality.show(value) if quality.higher else number(value))

    return Metric(f"change of {quality.name} under {DISTURBANCES[disturbance].title}", quality.higher, show)


def of_curves(quality: Quality) -> list[Metric]:
    """Those that methods are ranked by, in the order in which they are shown."""
    return [
        final(quality),
        *map(to_target, RESOURCES),
        *(within(resource, quality) for resource in RESOURCES),
        *(change_under(disturbance, quality) for disturbance in DISTURBANCES),
    ]
