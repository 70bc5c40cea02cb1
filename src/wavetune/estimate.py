"""Means of what is known, and how far they can be trusted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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
        from scipy.special import stdtrit  # which takes longer to import than a cell to plan

        return cls(mean, float(stdtrit(n - 1, 0.975)) * float(np.std(values, ddof=1)) / math.sqrt(n), n)
