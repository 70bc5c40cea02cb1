"""Bounds by counting: clients that need so many subchannels each cannot all be served from too few.

What a client gets from n subchannels is at most what it would get from its n strongest. Only few of these matter where
there are many clients, so that tables have no more columns than were asked for.
Shape suffixes: K clients, M subchannels, J of a client's strongest.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from wavetune.allocation.problem import IntArray
from wavetune.units import Array

_CLOSE = 1e-6  # Share by which twice the columns must raise a bound for yet more of them, up to eight times as many.


def enough_columns(num_clients: int, num_subchannels: int) -> int:
    """Of how many of its strongest subchannels a client is counted with: several times its even share, and some."""
    return min(num_subchannels, 8 * -(-num_subchannels // num_clients) + 32)


def strongest(value_KM: Array, most: int) -> Array:
    """Each row's largest values, falling, at most so many of them.

    >>> strongest(np.array([[1.0, 5.0, 3.0]]), 2).tolist()
    [[5.0, 3.0]]
    """
    M = value_KM.shape[1]
    few_KJ = np.partition(value_KM, M - most, axis=1)[:, M - most :] if 0 < most < M else value_KM
    return -np.sort(-few_KJ, axis=1)


class Strongest:
    """Rates of each client on its n strongest subchannels, n from 1, made for as many as are asked for."""

    def __init__(self, num_subchannels: int, made: Callable[[int], Array]) -> None:
        self.num_subchannels, self._made = num_subchannels, made
        self._rate_KJ: Array | None = None

    @classmethod
    def sums(cls, rate_KM: Array) -> Strongest:
        """Of rates that add up."""
        return cls(rate_KM.shape[1], lambda most: np.cumsum(strongest(rate_KM, most), axis=1))

    def rates(self, most: int) -> Array:
        """Rates on up to so many, [K, J]."""
        if self._rate_KJ is None or self._rate_KJ.shape[1] < most:
            self._rate_KJ = self._made(most)
        return self._rate_KJ[:, :most]

    def least_common_s(self, time_of: Callable[[Array], Array], least_K: IntArray, num_subchannels: int) -> float:
        """No owners of so many subchannels have all clients done sooner (s), from the times at given rates [K, J]."""
        few = 4 * -(-self.num_subchannels // max(len(least_K), 1)) + 16
        most, before_s, limit = min(self.num_subchannels, few), -np.inf, min(self.num_subchannels, 8 * few)
        while True:
            time_KJ = time_of(self.rates(most))
            found_s = least_common_s(time_KJ, least_K, num_subchannels)
            if most == limit or not np.any(time_KJ[:, -1] > found_s) or found_s <= before_s * (1 + _CLOSE):
                return found_s
            most, before_s = min(limit, 2 * most), found_s


def least_common_s(time_KJ: Array, least_K: IntArray, num_subchannels: int) -> float:
    """No owners of the subchannels have all clients done sooner (s); infinite where there are too few subchannels.

    At a delay t, client k needs `least_K` subchannels and one more for each larger number of its strongest with which
    it is not done by t; with all together at most as many as there are, that is an order statistic of the times.

    Args:
        time_KJ: when client k is done with its n strongest subchannels, n = 1 to J, falling (s).
        least_K: subchannels that it needs at any delay, at least 1.
        num_subchannels: how many there are.
    """
    spare = num_subchannels - int(np.sum(least_K))
    if spare < 0:
        return np.inf
    late = time_KJ[np.arange(1, time_KJ.shape[1] + 1) >= least_K[:, None]]
    return float(np.partition(late, late.size - 1 - spare)[late.size - 1 - spare]) if spare < late.size else -np.inf
