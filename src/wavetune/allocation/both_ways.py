"""Owners that serve both directions: who owns a subchannel sends on it and receives on it.

Problem: the slowest uplink ends at U, and after it the slowest way back at D; find owners and powers with the least
U + D. For a given D every client needs a least rate on the way back from what it owns, which local search, prices and
set packing count beside the uplink's, so that D is the only thing left to choose. The least U falls with D: what is
proved of U at the end of an interval of D, added to its start, bounds both ways over all of the interval. Intervals are
halved where the bound is least, until all are as good as the best owners, or no interval is worth it.
Shape suffixes: K clients, M subchannels.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from wavetune.allocation.band import (
    copy_prices,
    local_owners,
    ranked,
    strongest_uplink,
    vital_of_sums,
    with_cap_tolerance,
)
from wavetune.allocation.counting import Strongest, enough_columns
from wavetune.allocation.delay import downlink_rate_bit_per_s_KM, transfer_s
from wavetune.allocation.dual_bound import provable_delay, raise_afresh, raise_bound, uniform_prices
from wavetune.allocation.effort import Clock, Effort
from wavetune.allocation.feasibility import usable_subchannels
from wavetune.allocation.gains import NO_GAIN_LOG2
from wavetune.allocation.intervals import least_over_intervals
from wavetune.allocation.ladder import owners_delay
from wavetune.allocation.matching import Matching, is_crowded
from wavetune.allocation.owner_program import Back, Found, OwnerProgram, serving_owners
from wavetune.allocation.prices import Prices
from wavetune.allocation.problem import IntArray, RadioBand
from wavetune.allocation.set_packing import is_small, is_sparse, pack
from wavetune.allocation.water_filling import NO_RANKING, BandProblem
from wavetune.units import Array

_SAFE = 1 - 1e-9
_FAINT_LOG2 = -830.0  # of a subchannel on which a client can only receive
_SPLITS, _CLOSE = 7, 3e-4
_MOST_MATCHED, _SOON = 100_000, 20_000  # pairs of a client and a subchannel that are matched, and for which it is soon
_TRIED, _NEARER, _HALVINGS = np.linspace(0.05, 0.95, 7), 4, 6  # ends of the way back, how often, and of the uplink
_KICKS = 10
_OFTENER = 2  # are linear programs solved where hardly any subchannel is heard
_LATER = (0.02, 0.2)  # than matching allows; shares of what is left to the best known
_NEAR, _ASIDE, _NEAR_KICKS = (5e-4, 2e-3, 5e-3, 1e-2), 1e-2, 25  # below the best known, and D aside; shares of it
_MOST_NEAR, _NEAR_SIZE = 100, 400_000  # searches near the best known: so many, and over so many pairs together
_LEAST_ITERATIONS = 30  # of prices, at each end of an interval
_STUCK, _FRESH_STARTS = 0.01, 2  # of an uplink's delay: what is left to prove for which prices begin anew; how often


class TwoWays(NamedTuple):
    """The best owners known, when both ways are done with them, and when at the soonest with any (s).

    `front_P2` is what was proved on the way: with a way back of at most front_P2[:, 0], no uplink ends before
    front_P2[:, 1] (s).
    """

    owner_M: IntArray
    delay_s: float
    bound_s: float
    front_P2: Array = np.zeros((0, 2))

    def least_down_s(self, up_s: float) -> float:
        """No way back ends sooner (s) where the uplink ends by `up_s`."""
        return float(np.max(self.front_P2[self.front_P2[:, 1] > up_s, 0], initial=0.0))


class Asked(NamedTuple):
    """What a search is asked: those of both ways start from `prices`, and the uplink alone does not end before `up_s`.

    It ends within `gap_s` of the best owners, once `beat_s` is proved out of reach, or as effort or time are spent.
    """

    prices: Prices | None
    up_s: float
    gap_s: float
    beat_s: float
    effort: Effort
    clock: Clock


def with_receivers(uplink: BandProblem, down_KM: Array) -> BandProblem:
    """The problem where whoever receives on a subchannel can own it, even if nobody hears what it sends there."""
    faint_KM = (uplink.log_KM <= NO_GAIN_LOG2) & (down_KM > 0)
    if not np.any(faint_KM):
        return uplink
    log_KM = np.where(faint_KM, _FAINT_LOG2, uplink.log_KM)
    inverse_KM = np.where(faint_KM, 2.0**-_FAINT_LOG2, uplink.inverse_KM)
    most = uplink.ranking.order_KJ.shape[1]
    ranking = ranked(log_KM, inverse_KM, most) if most > 0 else NO_RANKING
    return uplink._replace(log_KM=log_KM, inverse_KM=inverse_KM, ranking=ranking)


@dataclass(frozen=True, eq=False)
class BothWays:
    """A band whose clients send as its problem says, and receive `down_bits_K` before they work for `after_s_K`."""

    band: RadioBand
    uplink: BandProblem
    down_bits_K: Array
    after_s_K: Array

    @cached_property
    def _rate_KM(self) -> Array:
        sends_back = np.any(self.down_bits_K > 0)  # where it does not, the way back may have no gains
        return downlink_rate_bit_per_s_KM(self.band) if sends_back else np.zeros(self.uplink.log_KM.shape)

    @cached_property
    def _asking(self) -> BandProblem:
        """The uplink's problem with the rates of the way back."""
        problem = with_receivers(self.uplink, self._rate_KM)
        back_KM = np.ascontiguousarray(self._rate_KM / self.unit)
        return problem._replace(back_KM=back_KM, vital_back=vital_of_sums(back_KM))

    @cached_property
    def _down(self) -> Strongest:
        return Strongest.sums(self._rate_KM)

    @cached_property
    def _enough(self) -> int:
        """Of how many of its strongest a client needs to be counted with on the way back."""
        return enough_columns(len(self.after_s_K), self.band.num_subchannels)

    @cached_property
    def unit(self) -> float:
        """What `back_KM` and `ask_K` of a problem are counted in (bit/s)."""
        return max(float(np.max(self._rate_KM)), 1e-300)

    def problem(self, down_s: float) -> BandProblem:
        """The uplink's problem of owners with which the way back takes at most `down_s`."""
        left_s_K = np.maximum(down_s - self.after_s_K, 1e-300)
        return self._asking._replace(ask_K=np.where(self.down_bits_K > 0, self.down_bits_K / left_s_K / self.unit, 0.0))

    @cached_property
    def matching(self) -> Matching | None:
        """Bounds by matching; none where there are many subchannels for each client."""
        return self.strongest if is_crowded(self.uplink, _MOST_MATCHED) else None

    @cached_property
    def strongest(self) -> Matching:
        """What clients carry by the strongest subchannel that they own."""
        return Matching.of(with_cap_tolerance(self._asking))

    def programs(self, most: int) -> int:
        """How many linear programs are affordable where, if all heard all subchannels, `most` would be."""
        if not is_small(self.uplink):
            return 0
        heard = int(np.count_nonzero(self._asking.log_KM > NO_GAIN_LOG2))
        return most * self.uplink.log_KM.size // max(heard, 1) * (_OFTENER if is_sparse(self.uplink) else 1)

    def matched_owners(self, up_s: float, known_s: float) -> IntArray | None:
        """Owners by matching, and local search from there, that have both ways done before `known_s`.

        None where there are none or no matching. `up_s` is a bound of the uplink alone. The ways back that are tried
        end around when by matching both ways might be done the soonest.
        """
        found, matching = None, self.matching
        first_s, last_s = self.least_down_s, known_s - up_s
        if matching is None or not known_s < np.inf:
            return None
        for _ in range(_NEARER if self._rate_KM.size <= _SOON else 1):
            soonest_s, tried = known_s, list[tuple[float, float, IntArray]]()
            for down_s in (first_s + (last_s - first_s) * _TRIED).tolist():
                goal_s = soonest_s - down_s
                least_s, owner_M = matching.least_up_s(self.problem(down_s).ask_K, up_s, goal_s, _HALVINGS)
                if owner_M is not None:
                    soonest_s = down_s + least_s
                    tried.append((down_s, least_s, owner_M))
            if not tried:
                break
            down_s, least_s, owner_M = tried[-1]
            for later in _LATER:
                searched_M = self.search(least_s + later * (known_s - soonest_s), down_s, owner_M, _KICKS)
                for one_M in (owner_M, owner_M if searched_M is None else searched_M):
                    if (delay_s := self.delay_s(one_M)) < known_s:
                        found, known_s = one_M, delay_s
            aside_s = (last_s - first_s) / len(_TRIED)
            first_s, last_s = max(first_s, down_s - aside_s), min(last_s, down_s + aside_s, known_s - up_s)
        return found

    def down_s(self, owner_M: IntArray) -> float:
        """When the last client has received and worked (s)."""
        used = np.flatnonzero(owner_M >= 0)
        weights = self._rate_KM[owner_M[used], used]
        rate_K = np.asarray(np.bincount(owner_M[used], weights, minlength=len(self.after_s_K)), np.float64)
        return float(np.max(transfer_s(self.down_bits_K, rate_K) + self.after_s_K))

    def up_s(self, owner_M: IntArray) -> float:
        """When the last client is heard (s)."""
        return max(owners_delay(self.uplink, owner_M), float(np.max(self.uplink.ready_K)))

    def delay_s(self, owner_M: IntArray) -> float:
        """Both ways together (s)."""
        return self.up_s(owner_M) + self.down_s(owner_M)

    @cached_property
    def least_down_s(self) -> float:
        """No owners have all clients received and worked sooner (s)."""
        counted_s = self._down.least_common_s(self.after_s_K, self.down_bits_K, 1, self.band.num_subchannels)
        return max(float(np.max(self.after_s_K)), float(counted_s) * _SAFE)

    def improve(
        self, starts: Sequence[IntArray], up_s: float, kicks: int, clock: Clock, close: float = _CLOSE
    ) -> TwoWays:
        """Owners by local search for delays between those known and what counting proves, as long as it pays.

        `up_s` is a bound of the uplink alone; `close` is the share of the delay below which less is not tried.
        """
        owner_M = min(starts, key=self.delay_s)
        if self.delay_s(owner_M) == np.inf and (serving_M := self._serving_owners()) is not None:
            owner_M = serving_M
        best_s, share = self.delay_s(owner_M), 0.5
        others = [s for s in starts if s is not owner_M]
        least_s = self._counted_s(up_s, best_s) if np.isfinite(best_s) else best_s
        while share * (best_s - least_s) > close * best_s and not clock.expired:
            target_s, found = best_s - share * (best_s - least_s), False
            for down_s in self._splits(owner_M, target_s, up_s):
                for start_M in (owner_M, *others):
                    found_M = self.search(target_s - down_s, down_s, start_M, kicks)
                    if found_M is not None and (found_s := self.delay_s(found_M)) < best_s * (1 - 1e-6):
                        owner_M, best_s, found = found_M, found_s, True
                if found or clock.expired:
                    break
            share, others = share if found else share / 3, []
        return TwoWays(owner_M, best_s, up_s + self.least_down_s)

    def _serving_owners(self) -> IntArray | None:
        """Owners with a rate both ways, with the least power; None where there are none."""
        heard_KM = usable_subchannels(self.band, self.uplink.cap_w_K)
        power_w_KM = np.where(heard_KM, self.uplink.inverse_KM, np.inf)
        return serving_owners(power_w_KM, self._rate_KM > 0, self.uplink.need_K > 0, self.down_bits_K > 0)

    def _splits(self, owner_M: IntArray, target_s: float, up_s: float) -> list[float]:
        """When the way back may end so that both are done by the target, as far as counting does not refute it."""
        now_s, room_s = self.down_s(owner_M), target_s - up_s - self.least_down_s
        as_now_s = [now_s, now_s + target_s - self.delay_s(owner_M)]
        evenly_s = self.least_down_s + room_s * np.linspace(0.02, 0.98, _SPLITS)
        tried_s = [down_s for down_s in [*as_now_s, *evenly_s.tolist()] if down_s >= self.least_down_s]
        return [down_s for down_s in tried_s if self.counted_up_s(down_s) <= target_s - down_s]

    def _counted_s(self, up_s: float, best_s: float) -> float:
        """No owners have both ways done sooner, by counting (s)."""

        def bound_s(start_s: float, end_s: float) -> float:
            return start_s + max(up_s, self.counted_up_s(end_s))

        return min(best_s, least_over_intervals(bound_s, self.least_down_s, best_s - up_s, best_s))

    def polish(self, known: TwoWays, gap_s: float, clock: Clock) -> TwoWays:
        """Better owners by local search for delays a little below the best, whose way back ends a little aside.

        It ends where the best is within `gap_s` of the bound. Large bands stay as they are.
        """
        g = np.random.default_rng(0)
        for seed in range(min(_MOST_NEAR, _NEAR_SIZE // self.uplink.log_KM.size)):
            if known.delay_s - known.bound_s <= gap_s or not np.isfinite(known.delay_s) or clock.expired:
                break
            target_s = known.delay_s * (1 - _NEAR[seed % len(_NEAR)])
            down_s = self.down_s(known.owner_M) + _ASIDE * known.delay_s * float(g.normal())
            if down_s >= self.least_down_s and self.counted_up_s(down_s) <= target_s - down_s:
                found_M = self.search(target_s - down_s, down_s, known.owner_M, _NEAR_KICKS, seed)
                known = known if found_M is None else self.better_of(known, found_M)
        return known

    def better_of(self, known: TwoWays, owner_M: IntArray) -> TwoWays:
        """What is known, with other owners where these are done sooner."""
        delay_s = self.delay_s(owner_M)
        return known._replace(owner_M=owner_M, delay_s=delay_s) if delay_s < known.delay_s else known

    def search(self, up_s: float, down_s: float, owner_M: IntArray, kicks: int, seed: int = 0) -> IntArray | None:
        """Owners by local search for an uplink and a way back that end in time; None where no owners could."""
        late = np.any(up_s <= self.uplink.ready_K[self.uplink.need_K > 0])
        if late or np.any(down_s <= self.after_s_K[self.down_bits_K > 0]):
            return None
        return local_owners(self.problem(down_s), up_s, owner_M, kicks, seed)

    def solve(self, known: TwoWays, asked: Asked) -> TwoWays:
        """Bound and owners in turns, as long as is asked."""
        proof = _Proof(self, known, asked)
        bound_s, known = max(known.bound_s, proof.raised_s()), proof.known
        front_P2 = np.array([(part.end_s, part.up_s) for part in proof.parts]) * _SAFE
        return known._replace(bound_s=min(bound_s, known.delay_s), front_P2=front_P2)

    def close(self, known: TwoWays, up_s: float, gap_s: float, beat_s: float) -> TwoWays:
        """Owners and bound of a tiny band by integer programs, which end as `solve` does."""
        if known.delay_s - known.bound_s <= gap_s or known.bound_s >= beat_s:
            return known
        back = Back(self._rate_KM, self.down_bits_K, self.after_s_K)
        program = OwnerProgram(with_cap_tolerance(self._asking), back, known.delay_s, up_s, self.least_down_s)
        found = program.close(Found(*known[:3]), gap_s, beat_s, self.delay_s)
        return known._replace(owner_M=found.owner_M, delay_s=found.delay_s, bound_s=min(found.bound_s, found.delay_s))

    def counted_up_s(self, down_s: float) -> float:
        """No uplink ends sooner (s) if the way back takes at most `down_s`; infinite where that cannot be.

        Both ways of a client take at least as many of its strongest subchannels as one of them alone.
        """
        problem, M = self.uplink, self.band.num_subchannels
        gets, sends = self.down_bits_K > 0, problem.need_K > 0
        ask_K1 = self.problem(down_s).ask_K[:, None] * _SAFE
        count_K = np.where(gets, 1 + np.sum(self._down.rates(self._enough) / self.unit < ask_K1, axis=1), 1)
        others = int(np.sum(count_K[gets & ~sends]))
        if np.any(down_s < self.after_s_K) or np.sum(count_K[gets | sends]) > M:
            return np.inf
        return float(self._up.least_common_s(problem.ready_K, problem.need_K, count_K, M - others)) * _SAFE

    @cached_property
    def _up(self) -> Strongest:
        return strongest_uplink(self._asking)


class _Part(NamedTuple):
    """An interval of when the way back is done: a bound of both ways in it, its ends, and of the uplink at the last.

    The latter might be raised, but for what was not refuted by `close_s` more.
    """

    bound_s: float
    start_s: float
    end_s: float
    up_s: float
    close_s: float = 0.0


class _Proof:
    """The search for a bound, which takes better owners along."""

    def __init__(self, ways: BothWays, known: TwoWays, asked: Asked) -> None:
        self.ways, self.known, self.asked, self.fresh_starts = ways, known, asked, _FRESH_STARTS
        prices, up_s = asked.prices, asked.up_s
        if prices is None:
            prices = uniform_prices(ways.uplink, known.owner_M, 0.0, known.delay_s)
        self.prices = copy_prices(prices)._replace(back_price_K2=np.zeros((len(ways.after_s_K), 2)))
        self.weight_M1, self.programs = self.prices.weight_M1.copy(), ways.programs(asked.effort.programs)
        start_s, end_s = ways.least_down_s, known.delay_s - up_s
        self.parts = [_Part(start_s + up_s, start_s, max(end_s, start_s), up_s)]

    @property
    def enough_s(self) -> float:
        """A bound that is as good as any."""
        return min(self.known.delay_s - self.asked.gap_s, self.asked.beat_s)

    def raised_s(self) -> float:
        """The bound (s)."""
        for _ in range(self.asked.effort.halvings):
            least = self.parts[0]
            if (
                least.bound_s >= self.enough_s
                or least.end_s - least.start_s <= 0.1 * self.asked.gap_s
                or self.asked.clock.expired
            ):
                break
            heapq.heappop(self.parts)
            middle_s, close_s = 0.5 * (least.start_s + least.end_s), 0.5 * (least.end_s - least.start_s)
            end_s = least.end_s if least.close_s > 2 * close_s and self.programs > 0 else middle_s
            up_s = max(least.up_s, self._up_s(end_s, self.enough_s - least.start_s, close_s))
            heapq.heappush(self.parts, _Part(least.start_s + up_s, least.start_s, end_s, up_s, close_s))
            if end_s < least.end_s:
                heapq.heappush(self.parts, least._replace(bound_s=end_s + least.up_s, start_s=end_s))
        return self.parts[0].bound_s * _SAFE

    def _up_s(self, down_s: float, goal_s: float, close_s: float) -> float:
        """What is proved of the uplink if the way back takes at most `down_s`, up to a goal (s).

        Or, where packing is affordable, up to so `close_s` to what it does not refute.
        """
        if self.asked.up_s >= goal_s:
            return self.asked.up_s
        matched_s, closed = self._matched_s(down_s, goal_s)
        return matched_s if closed else max(matched_s, self._priced_s(down_s, goal_s, close_s))

    def _matched_s(self, down_s: float, goal_s: float) -> tuple[float, bool]:
        """What matching proves of the uplink, as `_up_s`; and whether that is all there is to prove, or to find."""
        matching = self.ways.matching
        if matching is None:
            return self.asked.up_s, False
        low_s, owner_M = matching.least_up_s(self.ways.problem(down_s).ask_K, self.asked.up_s, goal_s)
        if owner_M is None:
            return low_s, True
        self.known = self.ways.better_of(self.known, owner_M)
        return low_s, self.ways.up_s(owner_M) <= goal_s and self.ways.down_s(owner_M) <= down_s

    def _priced_s(self, down_s: float, goal_s: float, close_s: float) -> float:
        """The same by prices and linear programs, which find no way from above what they prove."""
        problem = with_cap_tolerance(self.ways.problem(down_s))
        low_s = provable_delay(problem, copy_prices(self.prices), self.asked.up_s, goal_s)
        if low_s < goal_s:
            tolerance_s, iterations = 0.1 * self.asked.gap_s, max(_LEAST_ITERATIONS, self.asked.effort.iterations // 3)
            low_s, _ = raise_bound(problem, self.prices, low_s, goal_s, goal_s - low_s, tolerance_s, iterations)
            if self.fresh_starts > 0 and goal_s - low_s > _STUCK * goal_s:
                self.fresh_starts -= 1
                anew = raise_afresh(problem, self.known.owner_M, low_s, goal_s, tolerance_s, iterations)
                low_s, self.prices = anew[0], anew[2] or self.prices
        open_s, owner_M = goal_s - 0.3 * self.asked.gap_s, self.known.owner_M
        while low_s < open_s:
            packed = self.programs > 0 and not self.asked.clock.expired
            if packed:
                packing = pack(problem, self.weight_M1, owner_M, goal_s)
                self.programs -= packing.programs + 1
                owner_M = packing.owner_M
                if packing.weight_M1 is not None:
                    self.weight_M1, low_s = packing.weight_M1, goal_s
            if low_s < goal_s:
                found_M = self.ways.search(goal_s, down_s, owner_M, self.asked.effort.kicks)
                self.known = self.known if found_M is None else self.ways.better_of(self.known, found_M)
                open_s = min(open_s, goal_s)
            if not packed or open_s - low_s <= max(close_s, 0.3 * self.asked.gap_s):
                break
            goal_s = 0.5 * (low_s + open_s)
        return low_s
