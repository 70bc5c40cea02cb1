"""The numbers that methods are compared by: of a run's summary, of its curve, and of its disturbed twins."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wavetune.estimate import finite_mean
from wavetune.ranking.curves import RESOURCES, Quality
from wavetune.ranking.disturbances import DISTURBANCES
from wavetune.reporting.format import bits, joules, number, percent, seconds
from wavetune.reporting.mixture import mixed_reward

Summary = Mapping[str, Any]
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
class OfSummary(Metric):
    """A number of a run's summary; where its unit is the first method's, from that of its run with that seed."""

    of: Callable[[Summary, Summary], float | None] = lambda summary, first: None


def _mean_of(values: Sequence[float | None] | None) -> float | None:
    mean = finite_mean(values or ())
    return None if math.isnan(mean) else mean


def _after(key: str) -> Callable[[Summary, Summary], float | None]:
    return lambda summary, _: _mean_of(summary["evaluation"]["after"].get(key))


def _validation_loss(summary: Summary, _: Summary) -> float | None:
    """Of the one model of all clients; where they have models of their own it would be of other rows."""
    return None if summary.get("personal", True) else summary["validation_loss"]["after"]


def _true_mixed(summary: Summary, _: Summary) -> float | None:
    return _mean_of((summary.get("alignment") or {}).get("after", {}).get("true_mixed_K"))


def _mixed(summary: Summary, first: Summary) -> float | None:
    """In standard deviations of the first method's answers before alignment."""
    own, reference = (one.get("alignment") or {} for one in (summary, first))
    return _mean_of([mixed_reward(own.get("after", {}), own.get("lambdas", ()), reference.get("scale", {}))])


def _uplink_bits(summary: Summary, _: Summary) -> float:
    return sum(count for kind, count in summary["bits"].items() if kind.endswith("_up"))


OF_SUMMARIES = (
    OfSummary("validation loss", False, of=_validation_loss),
    OfSummary("own accuracy", True, percent, of=_after("own_accuracy_K")),
    OfSummary("foreign accuracy", True, percent, of=_after("foreign_accuracy_K")),
    OfSummary("own loss", False, of=_after("own_loss_K")),
    OfSummary("foreign loss", False, of=_after("foreign_loss_K")),
    OfSummary("mixed reward (sd)", True, of=_mixed),
    OfSummary("true mixed score", True, of=_true_mixed),
    OfSummary("uplink bits", False, bits, "bits", _uplink_bits),
    OfSummary("delay_s", False, seconds, "delay", lambda summary, _: summary["delay_s"]),
    OfSummary("energy_j", False, joules, "energy", lambda summary, _: summary["energy_j"]),
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
