"""Bounds and owners by matching, where there are hardly more subchannels than clients.

What a client owns has a strongest subchannel, by its uplink, and no two clients have the same. If that is i, the others
are weaker, and the client owns at least so many that i and the best of the weaker ones carry what it needs both ways.
So no owners meet times up and back if with any matching of clients to strongest subchannels they own more together than
there are. Where there is one subchannel for each client, that is exact.
Shape suffixes: K clients, M subchannels, N numbers of subchannels from 1, A clients that send or receive.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numpy as np

from wavetune.allocation.problem import IntArray
from wavetune.allocation.water_filling import NO_GAIN_LOG2, BandProblem, strongest_rates
from wavetune.units import Array

_MOST_COUNTED = 4  # subchannels of a client: whoever needs more is taken to need one more than these
_SAFE = 1 - 1e-9
_HALVINGS = 12


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
        N = min(max(M - K, 0) + 1, _MOST_COUNTED)
        order_KM = np.argsort(-problem.log_KM, axis=1, kind="stable")
        place_KM = np.argsort(order_KM, axis=1, kind="stable")
        sorted_KM = np.take_along_axis(problem.log_KM, order_KM, axis=1)
        inverse_KM = np.take_along_axis(problem.inverse_KM, order_KM, axis=1)
        back_KM = np.take_along_axis(problem.back_KM, order_KM, axis=1)
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
        """One subchannel for each client, with as few more as can be; None where no owners meet times up and back.

        Args:
            up_s: when all clients are heard (s).
            ask_K: what they ask of the way back.
        """
        from scipy import optimize  # pyright: ignore[reportMissingTypeStubs] # slow to import

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
        place_A, channel_A = cast(Any, optimize).linear_sum_assignment(more_AM)
        if np.sum(more_AM[place_A, channel_A]) > M - len(client_A):
            return None
        owner_M = np.full(M, -1)
        owner_M[channel_A] = client_A[place_A]
        return owner_M

    def least_up_s(self, ask_K: Array, low_s: float, goal_s: float) -> tuple[float, IntArray | None]:
        """No uplink ends sooner (s), up to a goal and from what is proved already; and owners if the goal is not it."""
        owner_M = self.owners(goal_s, ask_K)
        if owner_M is None:
            return goal_s, None
        high_s = goal_s
        for _ in range(_HALVINGS):
            middle_s = 0.5 * (low_s + high_s)
            if (found_M := self.owners(middle_s, ask_K)) is None:
                low_s = middle_s
            else:
                high_s, owner_M = middle_s, found_M
        return low_s, owner_M


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
