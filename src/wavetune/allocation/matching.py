"""Bounds and owners by matching, where there are hardly more subchannels than clients.

What a client owns has a strongest subchannel, by its uplink, and no two clients have the same. If that is i, the others
are weaker, and the client owns at least so many that i and the best of the weaker ones carry what it needs both ways.
So no owners meet times up and back if with any matching of clients to strongest subchannels they own more together than
there are. Where there is one subchannel for each client, that is exact.
Shape suffixes: K clients, M subchannels, N numbers of subchannels from 1, A clients that send or receive.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import numpy as np

from wavetune.allocation.gains import NO_GAIN_LOG2
from wavetune.allocation.problem import IntArray
from wavetune.allocation.water_filling import BandProblem, strongest_rates
from wavetune.units import Array

# subchannels of a client, and as many times an even share: whoever needs more is taken to need one more than these
_MOST_COUNTED, _COUNTED_TIMES = 4, 3
_SAFE = 1 - 1e-9
_HALVINGS = 12
_SHARE = 1.5  # subchannels a client up to which matching says much


def linear_sum_assignment(value_KW: Array) -> tuple[IntArray, IntArray]:
    """Rows and the columns that they are matched with, of the least sum."""
    from scipy import optimize  # pyright: ignore[reportMissingTypeStubs] # slow to import

    return cast(Any, optimize).linear_sum_assignment(value_KW)


class Matching(NamedTuple):
    """What clients carry whose strongest subchannel is i; powers are each client's own.

    `up_KMN` (bit/s/Hz) and `back_KMN` (as `back_KM` of a problem) are with so many subchannels at most, `up_KM` and
    `back_KM` with all that are weaker than i besides.
    """

    problem: BandProblem
    up_KMN: Array
    back_KMN: Array
    up_KM: Array
    back_KM: Array

    @classmethod
    def of(cls, problem: BandProblem) -> Matching:
        """The tables of a problem in which clients ask for something on the way back, or might."""
        K, M = problem.log_KM.shape
        N = min(max(M - K, 0) + 1, max(_MOST_COUNTED, _COUNTED_TIMES * M // K))
        order_KM = np.argsort(-problem.log_KM, axis=1, kind="stable")
        place_KM = np.argsort(order_KM, axis=1, kind="stable")
        sorted_KM = np.take_along_axis(problem.log_KM, order_KM, axis=1)
        inverse_KM = np.take_along_axis(problem.inverse_KM, order_KM, axis=1)
        asked = problem.back_KM.shape == (K, M)
        back_KM = np.take_along_axis(problem.back_KM, order_KM, axis=1) if asked else np.zeros((K, M))
        weaker_KM = np.cumsum(back_KM[:, ::-1], axis=1)[:, ::-1] * (1 + 1e-9)
        few_KMN = _windows(sorted_KM, N, NO_GAIN_LOG2), _windows(inverse_KM, N, 0.0)
        cap_w_R = np.repeat(problem.cap_w_K, M)
        rows = problem._replace(log_KM=few_KMN[0], inverse_KM=few_KMN[1], cap_w_K=cap_w_R)
        up_KMN = strongest_rates(rows).reshape(K, M, N)
        J = problem.vital.without_KJ.shape[1]
        column_M = np.minimum(np.arange(M, dtype=np.int64), J - 1)
        up_KM = problem.vital.without_KJ[:, column_M] if J else np.full((K, M), np.inf)
        up_KM = np.where(sorted_KM > NO_GAIN_LOG2, up_KM, -1.0)

        def unsorted(table: Array) -> Array:
            return np.take_along_axis(table, place_KM.reshape(K, M, *[1] * (table.ndim - 2)), axis=1)

        tables = (up_KMN * (1 + 1e-9), _with_strongest(back_KM, N), up_KM, weaker_KM)
        return cls(problem, *map(unsorted, tables))

    def owners(self, up_s: float, ask_K: Array) -> IntArray | None:
        """Different strongest subchannels, and the best free ones besides where a client needs more than its own.

        None where no owners meet times up and back. As few are owned as can be.

        Args:
            up_s: when all clients are heard (s).
            ask_K: what they ask of the way back.
        """
        problem, M = self.problem, self.up_KM.shape[1]
        sends_K, client_A = problem.need_K > 0, np.flatnonzero((problem.need_K > 0) | (ask_K > 0))
        left_s_K = up_s - problem.ready_K
        if len(client_A) > M or np.any(sends_K & (left_s_K <= 0)) or not np.all(np.isfinite(ask_K)):
            return None
        rate_K = np.where(sends_K, problem.need_K / np.where(sends_K, left_s_K, 1.0), 0.0) * _SAFE
        rate_A1, ask_A1 = rate_K[client_A, None], ask_K[client_A, None] * _SAFE
        sent_AM: IntArray = np.sum(self.up_KMN[client_A] < rate_A1[..., None], axis=2)
        received_AM: IntArray = np.sum(self.back_KMN[client_A] < ask_A1[..., None], axis=2)
        never_AM = (self.up_KM[client_A] < rate_A1) | (self.back_KM[client_A] < ask_A1)
        more_AM = np.where(never_AM, M + 1, np.maximum(sent_AM, received_AM))
        place_A, channel_A = linear_sum_assignment(more_AM)
        if np.sum(more_AM[place_A, channel_A]) > M - len(client_A):
            return None
        owner_M = np.full(M, -1)
        owner_M[channel_A] = client_A[place_A]
        for a in place_A[np.argsort(-more_AM[place_A, channel_A], kind="stable")].tolist():
            k, i = client_A[a], channel_A[a]
            value_M = problem.back_KM[k] if received_AM[a, i] > sent_AM[a, i] else problem.log_KM[k]
            for _ in range(more_AM[a, i]):
                owner_M[np.argmax(np.where(owner_M < 0, value_M, -np.inf))] = k
        return owner_M

    def owners_of_one(self, up_s: float) -> IntArray | None:
        """One subchannel for each client that sends, with which all are heard in time (s) at the least power together.

        None where there are none within the caps. Of the way back nothing is asked.
        """
        problem, client_A = self.problem, np.flatnonzero(self.problem.need_K > 0)
        left_s_A = up_s - problem.ready_K[client_A]
        if np.any(left_s_A <= 0):
            return None
        rate_A = problem.need_K[client_A] / left_s_A
        power_w_AM = np.expm1(np.minimum(rate_A * np.log(2), 500.0))[:, None] * problem.inverse_KM[client_A]
        does_AM = (problem.log_KM[client_A] > NO_GAIN_LOG2) & (rate_A <= problem.limit)[:, None]
        does_AM &= power_w_AM <= problem.cap_w_K[client_A, None]
        cost_AM = np.where(does_AM, power_w_AM / problem.total_w, 2.0)
        place_A, channel_A = linear_sum_assignment(cost_AM)
        if np.sum(cost_AM[place_A, channel_A]) > 1:
            return None
        owner_M = np.full(problem.log_KM.shape[1], -1)
        owner_M[channel_A] = client_A[place_A]
        return owner_M

    def least_up_s(
        self, ask_K: Array, low_s: float, goal_s: float, halvings: int = _HALVINGS
    ) -> tuple[float, IntArray | None]:
        """No uplink ends sooner (s), up to a goal and from what is proved already; and owners if the goal is not it."""
        return _by_halving(lambda up_s: self.owners(up_s, ask_K), low_s, goal_s, halvings)

    def soonest_of_one(self, low_s: float, goal_s: float) -> IntArray | None:
        """Owners of one subchannel each who are heard the soonest, by a goal (s); none are before `low_s`."""
        return _by_halving(self.owners_of_one, low_s, goal_s, _HALVINGS)[1]


def _by_halving(
    owners: Callable[[float], IntArray | None], low_s: float, goal_s: float, halvings: int
) -> tuple[float, IntArray | None]:
    """The latest time found (s) by which there are no owners, up to a goal, and owners a little later."""
    owner_M, high_s = owners(goal_s), goal_s
    if owner_M is None:
        return goal_s, None
    for _ in range(halvings):
        middle_s = 0.5 * (low_s + high_s)
        if (found_M := owners(middle_s)) is None:
            low_s = middle_s
        else:
            high_s, owner_M = middle_s, found_M
    return low_s, owner_M


def is_crowded(problem: BandProblem, most: int) -> bool:
    """Whether there are hardly more subchannels than clients, and no more pairs of both than `most`."""
    K, M = problem.log_KM.shape
    return K <= M <= _SHARE * K and most >= K * M


def _windows(value_KM: Array, most: int, nothing: float) -> Array:
    """Every entry and those after it, so many, of a row each, [K M, N]."""
    padded_KM = np.pad(value_KM, ((0, 0), (0, most - 1)), constant_values=nothing)
    return np.ascontiguousarray(np.lib.stride_tricks.sliding_window_view(padded_KM, most, axis=1).reshape(-1, most))


def _with_strongest(value_KM: Array, most: int) -> Array:
    """Every entry with the n - 1 largest after it, n from 1, [K, M, N].

    >>> _with_strongest(np.array([[1.0, 2.0, 5.0]]), 2).tolist()
    [[[1.0, 6.0], [2.0, 7.0], [5.0, 5.0]]]
    """
    K, M = value_KM.shape
    found_KMN, best_KN = np.empty((K, M, most)), np.zeros((K, most - 1))
    for i in range(M - 1, -1, -1):
        found_KMN[:, i, 0] = value_KM[:, i]
        found_KMN[:, i, 1:] = value_KM[:, i, None] + np.cumsum(best_KN, axis=1)
        best_KN = -np.sort(-np.concatenate((best_KN, value_KM[:, i, None]), axis=1), axis=1)[:, : most - 1]
    return found_KMN
