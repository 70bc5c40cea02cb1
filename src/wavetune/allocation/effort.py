"""How much may be spent on a search: until when, and how much of what."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np


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
    """How hard to try: random kicks a local search, searches, iterations of the bound, branches, halvings, programs.

    Halvings are of an interval of the way back's end, and linear programs are those that refute an uplink at one.
    """

    kicks: int
    searches: int
    iterations: int
    branches: int
    halvings: int
    programs: int

    @property
    def briefly(self) -> Effort:
        """One turn of search and bound, without kicks."""
        return replace(self, kicks=0, searches=1, branches=0)


def effort_of(size: int, brief: bool) -> Effort:
    """Effort for a band of K * M = size, such that the time grows little faster than the size."""
    if brief:
        return Effort(
            kicks=max(2, min(20, 1_000_000 // size)),
            searches=3,
            iterations=max(25, min(60, 4_000_000 // size)),
            branches=0,
            halvings=40,
            programs=0,
        )
    return Effort(
        kicks=max(20, min(200, 30_000_000 // size)),
        searches=16,
        iterations=max(90, min(300, 50_000_000 // size)),
        branches=min(300, 80_000 // size),
        halvings=max(10, min(200, 1_000_000 // size)),
        programs=min(800, 100_000 // size),
    )
