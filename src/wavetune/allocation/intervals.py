"""The least value of a function over an interval from bounds over its parts, halved where the bound is least."""

from __future__ import annotations

import heapq
from collections.abc import Callable

import numpy as np

_CLOSE = 2e-3
_HALVINGS = 60


def least_over_intervals(bound: Callable[[float, float], float], low_s: float, high_s: float, enough: float) -> float:
    """Least value of a function over an interval, by halving, from a bound of it that holds over any part of it.

    It may end below the least value once that is proved to be `enough`.
    """
    if not low_s <= high_s:
        return np.inf
    parts = [(bound(low_s, high_s), low_s, high_s)]
    if parts[0][0] >= enough:
        return parts[0][0]
    for _ in range(_HALVINGS):
        least, start_s, end_s = heapq.heappop(parts)
        middle_s = 0.5 * (start_s + end_s)
        halves = [(bound(a, b), a, b) for a, b in ((start_s, middle_s), (middle_s, end_s))]
        for value, a, b in halves:
            heapq.heappush(parts, (max(value, least), a, b))
        if end_s - start_s <= _CLOSE * end_s or parts[0][0] >= enough:
            break
    return parts[0][0]
