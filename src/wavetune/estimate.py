"""Means of what is known, and how far they can be trusted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np


def finite_mean(values: Iterable[float | None]) -> float:
    """Mean of the known values; NaN if none is known.

    >>> finite_mean([1.0, math.nan, 2.0, None])
    1.5
    """
    known = [value for value in values if value is not None and math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan


LEAST_SEEDS = 3  # with two, Student's t makes an interval 12.7 standard errors wide to each side


def caution(seeds: int) -> str:
    """What a reader of intervals over so few seeds must know; empty where they are enough."""
    if seeds >= LEAST_SEEDS:
        return ""
    what = "One seed gives no interval" if seeds < 2 else "Two seeds give intervals too wide to tell methods apart"
    return f"{what}: run with 5 seeds or more before you conclude anything."


@dataclass(frozen=True)
class Estimate:
    """A mean over `count` draws and the half width of its 95 % confidence interval; NaN where these are too few."""

    mean: float
    half_width: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """By Student's t distribution.

        >>> Estimate.of([1.0, 2.0, 3.0]).half_width
        2.484...
        """
        n = len(values)
        mean = float(np.mean(values)) if n else math.nan
        if n < 2:
            return cls(mean, math.nan, n)
        return cls(mean, t_of_95_percent(n - 1) * float(np.std(values, ddof=1)) / math.sqrt(n), n)


@cache
def t_of_95_percent(freedom: int) -> float:
    """Half width within which 95 % of Student's t distribution lie, of so many degrees of freedom, at least 1.

    Newton's steps on P(|T| < t), a finite sum; it is concave, so that from below they never overshoot. SciPy's takes
    longer to import than a cell to plan. Source: Abramowitz and Stegun, 26.7.3 and 26.7.4.

    >>> round(t_of_95_percent(1), 3), round(t_of_95_percent(10), 3)
    (12.706, 2.228)
    """
    odd, t = freedom % 2, 1.9
    k = np.arange(2 + odd, freedom, 2)
    log_peak = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - math.log(math.pi * freedom) / 2
    while True:
        angle = math.atan(t / math.sqrt(freedom))
        terms = np.cumprod(math.cos(angle) ** 2 * (k - 1) / k)
        inside = math.sin(angle) * (1 + float(np.sum(terms)))
        if odd:
            inside = 2 / math.pi * (angle + (math.cos(angle) * inside if freedom > 1 else 0.0))
        density = 2 * math.exp(log_peak - (freedom + 1) / 2 * math.log1p(t * t / freedom))
        step = (0.95 - inside) / density
        if not t + step > t * (1 + 1e-15):
            return t
        t += step
