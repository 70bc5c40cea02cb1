"""What a sweep found: means with 95 % confidence intervals over the seeds, a table, and its reading in words.

Every method plans the same devices and channels, so gains are taken seed by seed and then averaged. Infeasible cells
have no delay: they are counted beside the means, and a gain needs both delays.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from wavetune.reporting.format import percent, seconds
from wavetune.sweep.axis import Axis, Value, key_of
from wavetune.sweep.methods import BOUND, METHODS, PROPOSED
from wavetune.sweep.results import Record, key


@dataclass(frozen=True)
class Estimate:
    """A mean and the half width of its 95 % confidence interval, NaN where there are too few values."""

    mean: float
    half_width: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """By Student's t distribution.

        >>> Estimate.of([1.0, 2.0, 3.0]).half_width
        2.484...
        """
        n = len(values)
        mean = float(np.mean(values)) if n else math.nan
        if n < 2:
            return cls(mean, math.nan)
        return cls(mean, float(stdtrit(n - 1, 0.975)) * float(np.std(values, ddof=1)) / math.sqrt(n))


@dataclass(frozen=True)
class Point:
    """One method at one value: its delay (s), the proposed planner's gain over it, and how many seeds had no plan."""

    method: str
    value: Value
    delay_s: Estimate
    gain: Estimate
    num_seeds: int
    num_infeasible: int
    reason: str


@dataclass(frozen=True)
class Summary:
    """All points of a sweep, and the gain over each method averaged over the values."""

    axis: Axis
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    points: tuple[Point, ...]
    overall: dict[str, Estimate]
    largest_gap: float

    def of(self, method: str) -> list[Point]:
        """The points of a method, in the order of the axis."""
        return [point for point in self.points if point.method == method]


def title(method: str) -> str:
    """What a method is called."""
    return "lower bound" if method == BOUND else METHODS[method].title


def summarise(axis: Axis, methods: Sequence[str], seeds: Sequence[int], records: Sequence[Record]) -> Summary:
    """Estimates of every method and value, from the records of a sweep."""
    found = {key(r["value"], r["seed"], r["method"]): r for r in records}

    def delay_s(value: Value, seed: int, method: str) -> float | None:
        record = found[key(value, seed, PROPOSED if method == BOUND else method)]
        return record["lower_bound_s" if method == BOUND else "delay_s"]

    def gains(value: Value, seed: int, method: str) -> list[float]:
        if PROPOSED not in methods or method in (PROPOSED, BOUND):
            return []
        ours, theirs = delay_s(value, seed, PROPOSED), delay_s(value, seed, method)
        return [1 - ours / theirs] if ours is not None and theirs is not None else []

    def point(value: Value, method: str) -> Point:
        delays = [delay_s(value, seed, method) for seed in seeds]
        known = [d for d in delays if d is not None]
        gain = Estimate.of([g for seed in seeds for g in gains(value, seed, method)])
        records = [found[key(value, seed, PROPOSED if method == BOUND else method)] for seed in seeds]
        reason = next((r["reason"] for r in records if r["reason"]), "")
        return Point(method, value, Estimate.of(known), gain, len(seeds), len(delays) - len(known), reason)

    def over_values(method: str) -> Estimate:
        by_seed = [[g for value in axis.values for g in gains(value, seed, method)] for seed in seeds]
        return Estimate.of([float(np.mean(own)) for own in by_seed if own])

    # A bound of zero says nothing: the planner behind it proves none.
    bounds = [r["lower_bound_s"] or 0.0 for r in records if r["method"] == PROPOSED and r["status"] == "ok"]
    shown = tuple(m for m in methods if m != BOUND or (bounds and min(bounds) > 0))
    gaps = [1 - r["lower_bound_s"] / r["delay_s"] for r in records if r["method"] == PROPOSED and r["delay_s"]]
    baselines = [m for m in shown if m not in (PROPOSED, BOUND)] if PROPOSED in shown else []
    return Summary(
        axis,
        shown,
        tuple(seeds),
        tuple(point(value, method) for method in shown for value in axis.values),
        {method: over_values(method) for method in baselines},
        max(gaps, default=math.nan) if BOUND in shown else math.nan,
    )


def table(summary: Summary) -> str:
    """The points as CSV: means with the half widths of their intervals, empty where there is no number."""
    head = (
        "value",
        "method",
        "seeds",
        "infeasible",
        "mean_delay_s",
        "ci95_delay_s",
        "mean_gain",
        "ci95_gain",
        "reason",
    )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((summary.axis.field, *head[1:]))
    for p in summary.points:
        numbers = (p.delay_s.mean, p.delay_s.half_width, p.gain.mean, p.gain.half_width)
        shown = ("" if math.isnan(n) else f"{n:.6g}" for n in numbers)
        writer.writerow((p.value, p.method, p.num_seeds, p.num_infeasible, *shown, p.reason))
    return text.getvalue()


def reading(summary: Summary) -> str:
    """The figure in words: how the delay moves, the proposed planner's gain over each baseline, what had no plan."""
    return " ".join([*_trend(summary), *_gains(summary), *_gap(summary), *_infeasible(summary)])


def _trend(summary: Summary) -> list[str]:
    first = PROPOSED if PROPOSED in summary.methods else summary.methods[0]
    known = [p for p in summary.of(first) if not math.isnan(p.delay_s.mean)]
    if not known:
        return ["No cell of the sweep has a plan."]
    low, high = known[0], known[-1]
    axis, seeds = summary.axis, len(summary.seeds)
    over = "" if seeds == 1 else f" (mean of {seeds} seeds, 95 % interval)"
    if low is high:
        return [
            f"At {axis.title} {axis.show(low.value)} the delay of the {title(first)} is {_delay(low.delay_s)}{over}."
        ]
    moves = "falls" if high.delay_s.mean < low.delay_s.mean else "rises"
    return [
        f"As {axis.title} goes from {axis.show(low.value)} to {axis.show(high.value)}, the delay of the {title(first)} "
        f"{moves} from {_delay(low.delay_s)} to {_delay(high.delay_s)}{over}."
    ]


def _delay(estimate: Estimate) -> str:
    spread = "" if math.isnan(estimate.half_width) else f" ± {percent(estimate.half_width / estimate.mean)}"
    return seconds(estimate.mean) + spread


def _gains(summary: Summary) -> list[str]:
    shown = [
        f"{percent(gain.mean)}{_interval(gain)} below {title(method)}"
        for method, gain in sorted(summary.overall.items(), key=lambda item: item[1].mean)
        if not math.isnan(gain.mean)
    ]
    if not shown:
        return []
    listed = shown[0] if len(shown) == 1 else ", ".join(shown[:-1]) + " and " + shown[-1]
    return [f"Over all values the proposed planner is {listed}."]


def _interval(gain: Estimate) -> str:
    if math.isnan(gain.half_width):
        return ""
    return f" (95 % interval {percent(gain.mean - gain.half_width)} to {percent(gain.mean + gain.half_width)})"


def _gap(summary: Summary) -> list[str]:
    gap = summary.largest_gap
    return [] if math.isnan(gap) else [f"It is never more than {percent(gap)} above its proved lower bound."]


def _infeasible(summary: Summary) -> list[str]:
    said: list[str] = []
    for value in summary.axis.values:
        tried = [p for p in summary.points if key_of(p.value) == key_of(value) and p.method != BOUND]
        failed = [p for p in tried if p.num_infeasible]
        for count in sorted({p.num_infeasible for p in failed}):
            alike = [p for p in failed if p.num_infeasible == count]
            who = "" if len(alike) == len(tried) else " by " + " and ".join(title(p.method) for p in alike)
            where = f"At {summary.axis.title} {summary.axis.show(value)}"
            said.append(f"{where}, {count} of {len(summary.seeds)} seeds have no plan{who} ({alike[0].reason}).")
    return said
