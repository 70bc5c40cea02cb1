"""What is known of a race, and how much may be spent on knowing more."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np

from wavetune.allocation.feasibility import FORGIVEN
from wavetune.allocation.prices import Prices
from wavetune.allocation.problem import IntArray
from wavetune.allocation.water_filling import Race


@dataclass(frozen=True)
class Clock:
    """When to stop: never, or at a moment on the monotonic clock (s)."""

    end_s: float = np.inf

    @property
    def expired(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self.end_s

    def portion(self, iterations: int, size: int) -> int:
        """Of so many iterations over `size` numbers each, those to do before the next look at the clock."""
        return iterations if self.end_s == np.inf else max(10, min(iterations, 3_000_000 // size))


@dataclass(frozen=True)
class Effort:
    """How hard to try: random kicks per local search, searches, iterations of the bound, and branches."""

    kicks: int
    searches: int
    iterations: int
    branches: int

    @property
    def briefly(self) -> Effort:
        """One turn of search and bound, without kicks."""
        return replace(self, kicks=0, searches=1, branches=0)


@dataclass(frozen=True, eq=False)
class Standing:
    """What is known of a race: the best owners, their delay, a proved lower bound, its prices, the next try's reach."""

    owner_M: IntArray
    delay_s: float
    bound_s: float
    prices: Prices | None = None
    reach_s: float = np.inf

    @property
    def gap_s(self) -> float:
        """How far the bound is from the best known."""
        return self.delay_s - self.bound_s


def copied(prices: Prices) -> Prices:
    """Prices that can be moved without moving the given ones."""
    weight_M1, count_K, level_K2, dearer_K2 = prices
    return Prices(weight_M1.copy(), count_K.copy(), level_K2.copy(), dearer_K2.copy())


def forgiving(race: Race) -> Race:
    """The race with caps raised by what a plan is forgiven, so that bounds hold for every plan that passes."""
    return race._replace(cap_w_K=race.cap_w_K * (1 + FORGIVEN), total_w=race.total_w * (1 + FORGIVEN))
