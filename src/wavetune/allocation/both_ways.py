"""Owners that serve both directions: who owns a subchannel sends on it and receives on it.

A step waits for the slowest uplink and then for the slowest downlink. The search of a band knows the uplink alone; from
its owners and the greedy's on, whoever receives last is given one more subchannel at a time, the one whose giver lets
the uplink suffer least, and exchanges that help the uplink at no cost to the downlink are made. Then moves and
exchanges that shorten both ways together follow.
The bound counts whole subchannels: to end its uplink by a and its downlink by b, a client needs as many as its
strongest would do in either direction, and together there are M.
Shape suffixes: K clients, M subchannels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from wavetune.allocation.band import with_cap_tolerance
from wavetune.allocation.delay import downlink_rate_bit_per_s_KM, least_common_s, transfer_s
from wavetune.allocation.effort import Clock
from wavetune.allocation.intervals import least_over_intervals
from wavetune.allocation.problem import IntArray, RadioBand
from wavetune.allocation.water_filling import (
    NO_GAIN_LOG2,
    BandProblem,
    optimal_power,
    owners_delay,
    strongest_rates,
)
from wavetune.units import Array

_MOST_EXCHANGES = 3_000  # a step tries all exchanges of two subchannels up to so many
_MOST_STEPS, _WORTH_IT = 50, 1e-4  # of the last descent, and what one of them shortens at least
_SAFE = 1 - 1e-9


@dataclass(frozen=True, eq=False)
class BothWays:
    """A band whose clients send as its problem says, and receive `down_bits_K` before they work for `after_s_K`."""

    band: RadioBand
    problem: BandProblem
    down_bits_K: Array
    after_s_K: Array

    @cached_property
    def _rate_KM(self) -> Array:
        return downlink_rate_bit_per_s_KM(self.band)

    def down_s_K(self, owner_M: IntArray) -> Array:
        """When each client has received and worked (s)."""
        rate_KM, K = self._rate_KM, len(self.after_s_K)
        used = np.flatnonzero(owner_M >= 0)
        rate_K = np.bincount(owner_M[used], weights=rate_KM[owner_M[used], used], minlength=K)
        receives = self.down_bits_K > 0
        with np.errstate(divide="ignore"):
            air_s_K = np.divide(self.down_bits_K, rate_K, out=np.zeros(K), where=receives)
        return np.where(receives, air_s_K, 0.0) + self.after_s_K

    def delay_s(self, owner_M: IntArray) -> float:
        """Both ways together (s)."""
        return owners_delay(self.problem, owner_M) + float(np.max(self.down_s_K(owner_M)))

    def improve(self, starts: Sequence[IntArray], clock: Clock) -> IntArray:
        """The best owners met on the ways from given ones to those that receive soonest, and between neighbours.

        In a band with many subchannels only the first are improved, as far as one way leads.
        """
        first_M, *others = starts
        if not self._has_few_pairs():
            return min((self._on_the_way(first_M, clock), *others), key=self.delay_s)
        return min((self._shortened(self._on_the_way(s, clock), clock) for s in starts), key=self.delay_s)

    def _has_few_pairs(self) -> bool:
        M = self.problem.log_KM.shape[1]
        return M * (M - 1) // 2 <= _MOST_EXCHANGES

    def _on_the_way(self, owner_M: IntArray, clock: Clock) -> IntArray:
        """The best owners on the way to those that receive soonest."""
        best_M, best_s = owner_M, self.delay_s(owner_M)
        for _ in range(4 * len(self.after_s_K) + 20):
            moved_M = self._help_last(owner_M)
            if moved_M is None or clock.expired:
                break
            owner_M = self._exchange(moved_M, clock)
            if (found_s := self.delay_s(owner_M)) < best_s:
                best_M, best_s = owner_M, found_s
        return best_M

    def _shortened(self, owner_M: IntArray, clock: Clock) -> IntArray:
        """Moves and exchanges that shorten both ways together, while one of a step is worth it."""
        best_s = self.delay_s(owner_M)
        for _ in range(_MOST_STEPS):
            step_s, step_M = best_s, owner_M
            for near_M in self._neighbours(owner_M):
                if (near_s := self.delay_s(near_M)) < step_s:
                    step_s, step_M = near_s, near_M
            if not step_s < best_s * (1 - _WORTH_IT) or clock.expired:
                break
            owner_M, best_s = step_M, step_s
        return owner_M

    def _neighbours(self, owner_M: IntArray) -> Iterator[IntArray]:
        """One subchannel more for a client that holds the others up, from anybody or for one of its own."""
        for last in self._holding_up(owner_M):
            own = np.flatnonzero(owner_M == last)
            for m in np.flatnonzero((owner_M >= 0) & (owner_M != last)):
                for given in (None, *own):
                    changed_M = owner_M.copy()
                    changed_M[m] = last
                    if given is not None:
                        changed_M[given] = owner_M[m]
                    yield changed_M

    def _holding_up(self, owner_M: IntArray) -> set[int]:
        """Who receives last, sends nearest to its cap, or at the most power."""
        used, K = np.flatnonzero(owner_M >= 0), len(self.after_s_K)
        power_w_M = optimal_power(self.problem, owner_M)[1]
        spent_w_K = np.bincount(owner_M[used], weights=power_w_M[used], minlength=K)
        scores = (self.down_s_K(owner_M), spent_w_K / np.maximum(self.problem.cap_w_K, 1e-300), spent_w_K)
        return {int(np.argmax(score_K)) for score_K in scores}

    def _help_last(self, owner_M: IntArray) -> IntArray | None:
        """One more subchannel for whoever receives last, from clients that do not come to be last; None if none is."""
        down_s_K = self.down_s_K(owner_M)
        last, limit_s = int(np.argmax(down_s_K)), float(np.max(down_s_K))
        best_M, best_s = None, np.inf
        for m in np.flatnonzero(owner_M != last):
            moved_M = owner_M.copy()
            moved_M[m] = last
            moved_s_K = self.down_s_K(moved_M)
            if moved_s_K[last] < limit_s and np.all(np.delete(moved_s_K, last) <= limit_s * _SAFE):
                up_s = owners_delay(self.problem, moved_M)
                if up_s < best_s:
                    best_M, best_s = moved_M, up_s
        return best_M

    def _exchange(self, owner_M: IntArray, clock: Clock) -> IntArray:
        """Exchanges of two subchannels that help the uplink without delaying the downlink, while there are any."""
        if not self._has_few_pairs():
            return owner_M
        pairs = [(i, j) for i in range(len(owner_M)) for j in range(i) if owner_M[i] >= 0 and owner_M[j] >= 0]
        up_s, limit_s = owners_delay(self.problem, owner_M), float(np.max(self.down_s_K(owner_M)))
        improved = True
        while improved and not clock.expired:
            improved = False
            for i, j in pairs:
                if owner_M[i] == owner_M[j]:
                    continue
                changed_M = owner_M.copy()
                changed_M[i], changed_M[j] = owner_M[j], owner_M[i]
                found_s = owners_delay(self.problem, changed_M)
                if found_s < up_s * (1 - 1e-6) and float(np.max(self.down_s_K(changed_M))) <= limit_s:
                    owner_M, up_s, improved = changed_M, found_s, True
        return owner_M

    def least_s(self, up_s: float, enough_s: float) -> float:
        """No owners end both ways sooner (s), given that no uplink ends before `up_s`; at most what is enough."""
        problem = with_cap_tolerance(self.problem)
        M, gets, sends = problem.log_KM.shape[1], self.down_bits_K > 0, problem.need_K > 0
        up_KM = strongest_rates(problem)
        heard_KM = np.where(problem.log_KM > NO_GAIN_LOG2, self._rate_KM, 0.0)
        down_KM = np.cumsum(-np.sort(-heard_KM, axis=1), axis=1)
        down_s_KM = self.after_s_K[:, None] + transfer_s(self.down_bits_K[:, None], down_KM)
        least_s = float(np.max(self.after_s_K))

        def down_s(done_s: float) -> float:
            left_s_K = np.maximum(done_s - problem.ready_K, 1e-300)
            wanted_K1 = (problem.need_K / left_s_K)[:, None] * (1 - 1e-9)
            ups_K = np.where(sends, 1 + np.sum(up_KM < wanted_K1, axis=1), 0)
            others = int(np.sum(ups_K[~gets]))  # subchannels of clients that only send
            if others + np.sum(np.maximum(ups_K[gets], 1)) > M:
                return max(enough_s, least_s)
            time_KM = down_s_KM[gets, : M - others]
            received_s = least_common_s(time_KM, np.maximum(ups_K[gets], 1)) if gets.any() else -np.inf
            return max(received_s, least_s)

        return (
            min(least_over_intervals(lambda a, b: a + down_s(b), up_s, max(enough_s, up_s), enough_s), enough_s) * _SAFE
        )
