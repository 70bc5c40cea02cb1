"""What a sweep found: means with 95 % confidence intervals over the seeds.

Every method and value has the same devices and channels, so gains over methods and changes between values are taken
seed by seed and then averaged. Infeasible cells have no delay: at a value, the means of all methods rest on the same
seeds, those in which every method that has a plan there has one; gains and changes need both delays.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from wavetune.estimate import Estimate
from wavetune.sweep.axis import Value, key_of
from wavetune.sweep.methods import BOUND, PROPOSED
from wavetune.sweep.results import Record, key
from wavetune.sweep.run import Sweep


@dataclass(frozen=True)
class Point:
    """A method at a value: delay (s), the proposed planner's gain over it and the least in any seed, the change of its
    delay from the first value as a share of that, in how many seeds it has a plan, median times to plan, why one has
    none.
    """

    method: str
    value: Value
    delay_s: Estimate
    gain: Estimate
    worst_gain: float
    change: Estimate
    planned: int
    wall_s: float
    cpu_s: float
    reason: str


@dataclass(frozen=True)
class Summary:
    """All points of a sweep; the gain over each method averaged over the values, and the least in any cell; the largest
    gap to the lower bound; what was chosen.
    """

    sweep: Sweep
    points: tuple[Point, ...]
    gains: dict[str, Estimate]
    worst_gains: dict[str, float]
    largest_gap: float
    samples: tuple[str, ...]
    sit_out: int  # clients at most in a cell, whom the channel does not reach
    choices: dict[tuple[str, str], int]  # cut and rank of the proposed planner -> in how many cells

    def of(self, method: str) -> list[Point]:
        """The points of a method, in the order of the axis."""
        return [point for point in self.points if point.method == method]


def summarise(sweep: Sweep, records: Sequence[Record]) -> Summary:
    """Estimates of every method and value, from the records of a sweep."""
    found = {key(r["value"], r["seed"], r["method"]): r for r in records}
    values, seeds = sweep.axis.values, sweep.seeds

    def record(value: Value, seed: int, method: str) -> Record:
        return found[key(value, seed, PROPOSED if method == BOUND else method)]

    def delay_s(value: Value, seed: int, method: str) -> float | None:
        return record(value, seed, method)["lower_bound_s" if method == BOUND else "delay_s"]

    def gain(value: Value, seed: int, method: str) -> float | None:
        ours, theirs = delay_s(value, seed, PROPOSED), delay_s(value, seed, method)
        return None if ours is None or theirs is None else 1 - ours / theirs

    def change(value: Value, seed: int, method: str) -> float | None:
        before, now = delay_s(values[0], seed, method), delay_s(value, seed, method)
        return None if before is None or now is None else now / before - 1

    def common(value: Value) -> list[int]:
        """Seeds in which every method has a plan that has any at this value."""
        planned = [{seed for seed in seeds if delay_s(value, seed, method) is not None} for method in sweep.methods]
        return sorted(set.intersection(*(some for some in planned if some))) if any(planned) else []

    def point(value: Value, method: str) -> Point:
        cells = [record(value, seed, method) for seed in seeds]

        def median(time_s: str) -> float:
            return math.nan if method == BOUND else float(np.median([r[time_s] for r in cells]))

        return Point(
            method,
            value,
            _over(delay_s(value, seed, method) for seed in common_of[key_of(value)]),
            _over(gain(value, seed, method) for seed in seeds if method in rivals),
            _least(gain(value, seed, method) for seed in seeds if method in rivals),
            _over(change(value, seed, method) for seed in seeds),
            sum(delay_s(value, seed, method) is not None for seed in seeds),
            median("wall_s"),
            median("cpu_s"),
            next((r["reason"] for r in cells if r["reason"]), ""),
        )

    def over_values(method: str) -> Estimate:
        return _over(_over(gain(value, seed, method) for value in values).mean for seed in seeds)

    common_of = {key_of(value): common(value) for value in values}
    rivals = [m for m in sweep.methods if m not in (PROPOSED, BOUND)] if PROPOSED in sweep.methods else []
    proved = [r for r in records if r["method"] == PROPOSED and r["lower_bound_s"]]
    chosen = [r for r in records if r["method"] == PROPOSED and r.get("cuts")]
    return Summary(
        sweep,
        tuple(point(value, method) for method in sweep.methods for value in values),
        {method: over_values(method) for method in rivals},
        {method: _least(gain(value, seed, method) for value in values for seed in seeds) for method in rivals},
        max((r["delay_s"] / r["lower_bound_s"] - 1 for r in proved), default=math.nan),
        tuple(sorted({r["samples"] for r in records})),
        max((r.get("sit_out", 0) for r in records), default=0),
        dict(Counter(("/".join(map(str, r["cuts"])), "/".join(map(str, r["ranks"]))) for r in chosen)),
    )


def _least(values: Iterable[float | None]) -> float:
    """The least of those that are known; NaN where none is."""
    return min((v for v in values if v is not None), default=math.nan)


def _over(values: Iterable[float | None]) -> Estimate:
    """Estimate from those that are known."""
    return Estimate.of([v for v in values if v is not None and not math.isnan(v)])
