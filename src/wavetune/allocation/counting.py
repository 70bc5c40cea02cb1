"""Bounds by counting: clients that need so many subchannels each cannot all be served from too few.

What a client gets from n subchannels is at most what it would get from its n strongest. Only few of these matter where
there are many clients, so that tables have no more columns than were asked for.
Shape suffixes: K clients, M subchannels, J of a client's strongest, P problems.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from wavetune.allocation.problem import IntArray
from wavetune.units import Array

_AT_ONCE = 2_000_000  # times that are in memory
_HALVINGS, _ROUNDING = 16, 1e-9
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


def which_strongest(value_KM: Array, most: int) -> IntArray:
    """Where each row's largest values are, falling, at most so many of them.

    >>> which_strongest(np.array([[1.0, 5.0, 3.0]]), 2).tolist()
    [[1, 2]]
    """
    M = value_KM.shape[1]
    some_KJ: IntArray = np.argpartition(value_KM, M - most, axis=1)[:, M - most :] if most < M else np.argsort(value_KM)
    falling_KJ = np.argsort(-np.take_along_axis(value_KM, some_KJ, axis=1), axis=1, kind="stable")
    return np.take_along_axis(some_KJ, falling_KJ, axis=1)


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

    def least_common_s(self, start_s: Array, amount: Array, least: IntArray | int, num_subchannels: int) -> Array:
        """No owners of so many subchannels have all clients of a problem done sooner (s); of several, [P, K], each.

        A client with an `amount` above 0 is done at `start_s` and the amount over its rate, and needs `least`
        subchannels at any delay; the others need none. Columns are doubled for problems whose bounds that raises.
        """
        few = 4 * -(-self.num_subchannels // max(amount.shape[-1], 1)) + 16
        columns = (min(self.num_subchannels, few), min(self.num_subchannels, 8 * few))
        least_K = np.where(amount > 0, least, 0)
        if amount.ndim == 1:
            return np.array(self._of_one(start_s, amount, least_K, num_subchannels, columns))
        found_P, at_once = np.empty(len(amount)), max(1, _AT_ONCE // (amount.shape[1] * columns[0]))
        for first in range(0, len(amount), at_once):
            some = slice(first, first + at_once)
            for p, time_KJ in enumerate(_times_s(start_s[some], amount[some], self.rates(columns[0])), first):
                of_p = (start_s[p], amount[p], least_K[p], num_subchannels)
                found_P[p] = self._of_one(*of_p, columns, time_KJ)
        return found_P

    def _of_one(
        self,
        start_K: Array,
        amount_K: Array,
        least_K: IntArray,
        num_subchannels: int,
        columns: tuple[int, int],
        time_KJ: Array | None = None,
    ) -> float:
        """The same of one problem, with so many columns at first and at most, and its times where they are known."""
        (most, limit), before_s = columns, -np.inf
        while True:
            time_KJ = _times_s(start_K, amount_K, self.rates(most)) if time_KJ is None else time_KJ
            found_s = least_common_s(time_KJ, least_K, num_subchannels)
            if most == limit or not np.maximum.reduce(time_KJ[:, -1]) > found_s > before_s * (1 + _CLOSE):
                return found_s
            most, before_s, time_KJ = min(limit, 2 * most), found_s, None


def _times_s(start_K: Array, amount_K: Array, rate_KJ: Array) -> Array:
    """When clients are done at rates, [..., K, J]; at once where they have nothing to do."""
    with np.errstate(divide="ignore", invalid="ignore"):
        time_KJ = start_K[..., None] + amount_K[..., None] / rate_KJ
    idle_K = amount_K <= 0
    if np.logical_or.reduce(idle_K, axis=None):
        time_KJ[idle_K] = -np.inf
    return time_KJ


def least_common_s(time_KJ: Array, least_K: IntArray, num_subchannels: int) -> float:
    """No owners of the subchannels have all clients done sooner (s); infinite where there are too few subchannels.

    At a delay t, client k needs `least_K` subchannels and one more for each larger number of its strongest with which
    it is not done by t; with all together at most as many as there are, that is an order statistic of the times.

    Args:
        time_KJ: when client k is done with its n strongest subchannels, n = 1 to J, falling (s).
        least_K: subchannels that it needs at any delay.
        num_subchannels: how many there are.
    """
    if np.maximum.reduce(least_K) > 1:
        number_J: IntArray = np.arange(1, time_KJ.shape[1] + 1, dtype=np.int64)
        time_KJ = np.where(number_J >= least_K[:, None], time_KJ, -np.inf)
    spare = num_subchannels - int(np.add.reduce(least_K))
    if not 0 <= spare < time_KJ.size:
        return np.inf if spare < 0 else -np.inf
    place = time_KJ.size - 1 - spare
    late = time_KJ.flatten()
    late.partition(place)
    return float(late[place])


def least_shared_s(time_KCN: Array, work_s_KC: Array, low_s: float, high_s: float) -> float:
    """No owners and shares of the server have all clients through a step sooner than this, between given delays (s).

    A client goes through its cut's own time with so many subchannels and its work at its share of the server. The least
    that all shares are together with so many subchannels in all is found client by client. `low_s` is returned where
    no more is proved, and `high_s` where that is.

    >>> time_KCN = np.array([[[np.inf, 3.0, 2.0]], [[np.inf, 3.0, 1.0]]])
    >>> round(least_shared_s(time_KCN, np.array([[1.0], [1.0]]), 0.0, 9.0), 3)
    5.0

    Args:
        time_KCN: seconds of client k at cut c with its n strongest subchannels, n from 0, and without the server.
        work_s_KC: its seconds at the whole server.
        low_s: proved before.
        high_s: the most that is of interest.
    """
    N = time_KCN.shape[2]
    count_N: IntArray = np.arange(N, dtype=np.int64)
    back_NN: IntArray = count_N[:, None] - count_N  # of n subchannels, m of them for the next client
    spent_NN = np.where(back_NN >= 0, 0.0, np.inf)

    def fits(step_s: float) -> bool:
        left_s_KCN, share_N = step_s - time_KCN, np.zeros(N)
        with np.errstate(divide="ignore", invalid="ignore"):
            share_KCN = np.where(work_s_KC[:, :, None] > 0, work_s_KC[:, :, None] / left_s_KCN, 0.0)
        share_KCN[~(left_s_KCN >= 0)] = np.inf
        for least_N in np.min(share_KCN, axis=1):
            share_N = np.min(share_N[back_NN] + spent_NN + least_N, axis=1)
        return bool(share_N[-1] <= 1 + _ROUNDING)

    if not fits(high_s):
        return high_s
    for _ in range(_HALVINGS):
        middle_s = 0.5 * (low_s + high_s)
        low_s, high_s = (low_s, middle_s) if fits(middle_s) else (middle_s, high_s)
    return low_s
