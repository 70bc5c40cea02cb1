"""One band: who owns what and with how much power, so that the last client is done early; and how early at best.

Problem: min over owners and powers of max_k(ready_k + need_k / rate_k). Search and bound drive each other: the local
search is asked for delays between the bound and the best known, the bound for delays just below the best known, until
they meet or the effort is spent. A wide gap of a small band is closed by set packing, the last one of a small or nearly
solved band by branch and bound: in one branch a client owns a subchannel and nobody else can hear it, in the other that
client cannot hear it; every plan belongs to one of both, so that the least bound over the open branches holds for all.
Shape suffixes: K clients, M subchannels.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from wavetune.allocation.counting import Strongest, strongest, which_strongest
from wavetune.allocation.dual_bound import (
    most_divided,
    provable_delay,
    raise_afresh,
    raise_bound,
    rounded_owners,
    uniform_prices,
)
from wavetune.allocation.effort import Clock, Effort
from wavetune.allocation.feasibility import CAP_TOLERANCE, match_subchannels, usable_subchannels
from wavetune.allocation.gains import NO_GAIN_LOG2
from wavetune.allocation.ladder import owners_delay, steps_of
from wavetune.allocation.local_search import Demand, first_owners, search
from wavetune.allocation.matching import Matching, is_crowded
from wavetune.allocation.owner_program import serving_owners
from wavetune.allocation.prices import Prices
from wavetune.allocation.problem import IntArray, RadioBand
from wavetune.allocation.set_packing import is_small, is_sparse, pack
from wavetune.allocation.water_filling import (
    NO_RANKING,
    NO_STEPS,
    BandProblem,
    Ranking,
    Steps,
    Vital,
    optimal_power,
    rates_without,
    strongest_rates,
)
from wavetune.units import Array

_STEP = 0.02
_MOST_PACKINGS, _MOST_PROGRAMS, _WIDE, _HOPELESS = 14, 130, 10, 30
_FIRST_GAP, _FIRST_PROGRAMS, _NEAR = 0.03, 16, 0.35  # for first plans of sparse bands
_STEPPED = 8  # times as long a kick takes where whole steps count
_EXCESS_PRICE = 1e3  # total powers for a client that needs twice its cap
_RANKED = 100  # subchannels from which on bounds look at a client's strongest first
_FEWEST_RANKED, _RANKED_TIMES = 64, 4  # of them, and as many times what each owns where all own alike
_MOST_VITAL = 16  # subchannels of which a client may need one, for bounds to say so
_MOST_MATCHED = 20_000  # pairs of a client and a subchannel up to which first owners are matched
_OPEN = 0.99  # of a delay: where more is proved, first owners are near enough
_LATER, _MATCHED_KICKS = 0.1, 10  # than matching allows, in shares of what is open, and kicks of a search from there
_STUCK = 2e-3  # Of a delay: a gap at which prices that hardly lead further are given up.
_ITERATIONS_A_TURN, _BRANCH_ITERATIONS = 60, 40
_VAST = 400_000  # pairs of a client and a subchannel beyond which a search starts from the prices' bundles only once
_FEWEST_FRESH, _MOST_FRESH = 10, 10_000_000  # iterations of prices that begin anew, and pairs that these price


@dataclass(frozen=True, eq=False)
class Incumbent:
    """What is known of a band problem: best owners, their delay, a lower bound, its prices, and its next step.

    `priced_s` is from where prices go on, where something else has proved more: they do not find a way from above.
    """

    owner_M: IntArray
    delay_s: float
    bound_s: float
    prices: Prices | None = None
    trial_step_s: float = np.inf
    packing_weight_M1: Array | None = None
    priced_s: float = np.inf

    @property
    def gap_s(self) -> float:
        """How far the bound is from the best known."""
        return self.delay_s - self.bound_s


def copy_prices(prices: Prices) -> Prices:
    """Prices that can be moved without moving the given ones."""
    weight_M1, count_K, level_K2, dearer_K2, back_price_K2 = prices
    return Prices(weight_M1.copy(), count_K.copy(), level_K2.copy(), dearer_K2.copy(), back_price_K2.copy())


def with_cap_tolerance(problem: BandProblem) -> BandProblem:
    """The problem with caps raised by what a plan is forgiven, so that bounds hold for every plan that passes."""
    return problem._replace(
        cap_w_K=problem.cap_w_K * (1 + CAP_TOLERANCE), total_w=problem.total_w * (1 + CAP_TOLERANCE)
    )


@dataclass(frozen=True, eq=False)
class BandTables:
    """A band with the tables that all its problems share: who sends what, and when, may differ."""

    band: RadioBand
    cap_w_K: Array
    snr_per_w_KM: Array = field(init=False)
    log_KM: Array = field(init=False)
    inverse_KM: Array = field(init=False)
    lone_rate_K: Array = field(init=False)
    steps: Steps = field(init=False)
    vital: Vital = field(init=False)
    ranking: Ranking = field(init=False)

    def __post_init__(self) -> None:
        log_KM, inverse_KM = self.band.log_and_inverse_KM
        K, M = log_KM.shape
        most = _FEWEST_RANKED + _RANKED_TIMES * M // K
        most_w_K = np.minimum(self.cap_w_K, self.band.total_power_max_w) * (1 + CAP_TOLERANCE)
        vital = vital_of_rates(log_KM, inverse_KM, most_w_K, self.band.envelope.most)
        tables = {
            "snr_per_w_KM": np.ascontiguousarray(self.band.snr_per_w_KM),
            "log_KM": log_KM,
            "inverse_KM": inverse_KM,
            "lone_rate_K": vital.without_KJ[:, 0],
            "vital": vital,
            "ranking": ranked(log_KM, inverse_KM, min(M, most)) if M >= _RANKED else NO_RANKING,
            "steps": steps_of(self.band.ladder, self.band.envelope.gap, self.band.effective_hz),
        }
        for name, table in tables.items():
            object.__setattr__(self, name, table)

    def problem(self, ready_s_K: Array, bits_K: Array) -> BandProblem:
        """The problem of clients that start to send `bits_K` at `ready_s_K`."""
        need_K = np.asarray(bits_K / self.band.effective_hz, dtype=np.float64)
        ready_K = np.ascontiguousarray(ready_s_K, dtype=np.float64)
        total_w, limit = self.band.total_power_max_w, float(self.band.envelope.most)
        problem = BandProblem(self.log_KM, self.inverse_KM, ready_K, need_K, self.cap_w_K, total_w, limit)
        return problem._replace(steps=self.steps, vital=self.vital, ranking=self.ranking)

    def alone_s(self, problem: BandProblem) -> float:
        """No delay is shorter (s): each client with the whole band to itself."""
        return float(self._alone_s(problem.ready_K, problem.need_K))

    def lone_bound_s(self, problem: BandProblem) -> float:
        """The same or, where that is more, what counting subchannels proves for all together (s)."""
        return float(self.lone_bounds_s(problem.ready_K, problem.need_K))

    def lone_bounds_s(self, ready_K: Array, need_K: Array) -> Array:
        """The same of several problems, where there are rows of them (s)."""
        counted_s = self._strongest.least_common_s(ready_K, need_K, 1, self.band.num_subchannels)
        return np.maximum(counted_s * (1 - 1e-6), self._alone_s(ready_K, need_K))

    @property
    def strongest_rates_KM(self) -> Array:
        """Rates (bit/s/Hz) that clients do not exceed on their n strongest subchannels, n from 1."""
        return self._strongest.rates(self.band.num_subchannels)

    def _alone_s(self, ready_K: Array, need_K: Array) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            done_s = np.where(need_K > 0, ready_K + need_K / self.lone_rate_K, -np.inf)
        return np.max(done_s, axis=-1) * (1 - 1e-6)

    @cached_property
    def matching(self) -> Matching | None:
        """Bounds by matching; none where there are many subchannels for each client, or many of both."""
        none_K = np.zeros(len(self.cap_w_K))
        problem = with_cap_tolerance(self.problem(none_K, none_K))
        return Matching.of(problem) if is_crowded(problem, _MOST_MATCHED) else None

    @cached_property
    def _strongest(self) -> Strongest:
        none_K = np.zeros(len(self.cap_w_K))
        return strongest_uplink(self.problem(none_K, none_K))


def ranked(log_KM: Array, inverse_KM: Array, most: int) -> Ranking:
    """The ranking of each client's strongest subchannels, so many of them."""
    order_KJ = which_strongest(log_KM, most)
    tables = (np.take_along_axis(table_KM, order_KJ, axis=1) for table_KM in (log_KM, inverse_KM))
    return Ranking(order_KJ.astype(np.uint32), *tables)


def vital_of_rates(log_KM: Array, inverse_KM: Array, power_w_K: Array, limit: float) -> Vital:
    """The strongest subchannels of clients and what they carry without these, all on the others, at a power (W)."""
    most = min(_MOST_VITAL, log_KM.shape[1])
    return Vital(which_strongest(log_KM, most), rates_without(log_KM, inverse_KM, power_w_K, limit, most))


def vital_of_sums(value_KM: Array) -> Vital:
    """The same of what adds up over subchannels."""
    most = min(_MOST_VITAL, value_KM.shape[1])
    strongest_KJ = which_strongest(value_KM, most)
    others_KM = value_KM.copy()
    np.put_along_axis(others_KM, strongest_KJ, 0.0, axis=1)
    back_KJ = np.cumsum(np.take_along_axis(value_KM, strongest_KJ, axis=1)[:, ::-1], axis=1)[:, ::-1]
    back_KJ = np.concatenate((back_KJ, np.zeros((len(value_KM), 1))), axis=1)
    return Vital(strongest_KJ, (np.sum(others_KM, axis=1)[:, None] + back_KJ) * (1 + 1e-9))


def strongest_uplink(problem: BandProblem) -> Strongest:
    """Rates (bit/s/Hz) that the clients do not exceed on their strongest subchannels, each at its own power."""
    problem = with_cap_tolerance(problem)
    heard_KM = problem.log_KM > NO_GAIN_LOG2

    def rates(most: int) -> Array:
        inverse_KJ = -strongest(np.where(heard_KM, -problem.inverse_KM, -np.inf), most)
        inverse_KJ[np.isinf(inverse_KJ)] = 0.0
        log_KJ = strongest(problem.log_KM, most)
        return strongest_rates(problem._replace(log_KM=log_KJ, inverse_KM=inverse_KJ)) * (1 + 1e-9)

    return Strongest(problem.log_KM.shape[1], rates)


def first_incumbent(tables: BandTables, problem: BandProblem, owner_M: IntArray | None = None) -> Incumbent:
    """Owners to start from: given ones or, where these leave a client without a rate, greedy ones."""
    low_s, alone_s = tables.lone_bound_s(problem), tables.alone_s(problem)
    if owner_M is not None and owner_M.shape == (tables.band.num_subchannels,):
        owner_M = np.where((owner_M >= 0) & (problem.need_K[owner_M] > 0), owner_M, -1)
        delay_s = owners_delay(problem, owner_M)
        if np.isfinite(delay_s):
            return Incumbent(owner_M, delay_s, min(low_s, delay_s), priced_s=alone_s)
    usable_KM = usable_subchannels(tables.band, tables.cap_w_K)
    senders = np.flatnonzero(problem.need_K > 0)
    seed_K = np.full(len(problem.need_K), -1, dtype=np.int64)
    crowded = np.any(usable_KM[senders].sum(axis=1) < len(senders))
    seed_K[senders] = match_subchannels(usable_KM[senders]) if crowded else 0
    heard_KM = np.where(usable_KM, tables.snr_per_w_KM, 0.0)
    weak_first_K = np.argsort(np.sum(np.log1p(heard_KM * (problem.total_w / heard_KM.shape[1])), axis=1), kind="stable")
    owner_M = first_owners(
        heard_KM, problem.ready_K, problem.need_K, problem.cap_w_K, problem.total_w, weak_first_K, seed_K, problem.limit
    )
    delay_s = owners_delay(problem, owner_M)
    if delay_s == np.inf:
        sends_K = problem.need_K > 0
        serving_M = serving_owners(
            np.where(usable_KM, problem.inverse_KM, np.inf), usable_KM, sends_K, np.zeros_like(sends_K)
        )
        owner_M = owner_M if serving_M is None else serving_M
        delay_s = owners_delay(problem, owner_M)
    if tables.matching is not None and low_s < delay_s < np.inf:
        matching, none_K = tables.matching._replace(problem=with_cap_tolerance(problem)), np.zeros(len(problem.need_K))
        single_M = matching.soonest_of_one(low_s, delay_s)
        low_s, matched_M = matching.least_up_s(none_K, low_s, delay_s)
        owners = [owner_M, *(one_M for one_M in (single_M, matched_M) if one_M is not None)]
        delay_s, owner_M = min(((owners_delay(problem, one_M), one_M) for one_M in owners), key=lambda one: one[0])
    return Incumbent(owner_M, delay_s, min(low_s, delay_s), priced_s=alone_s)


def descend(problem: BandProblem, incumbent: Incumbent, clock: Clock, kicks: int = 0) -> Incumbent:
    """Local search for delays ever closer to the best known; nothing to do where nobody sends."""
    step = _STEP if np.any(problem.need_K > 0) else 0.0
    while step > 1e-4 and not clock.expired:
        target_s = incumbent.delay_s - step * (incumbent.delay_s - _last_start_s(problem))
        refuted = target_s < incumbent.bound_s
        better = incumbent if refuted else search_below(problem, incumbent, target_s, kicks, 0)
        step = step if better.delay_s < incumbent.delay_s * (1 - 1e-6) else step / 4
        incumbent = better
    return incumbent


def first_owners_of(
    tables: BandTables, problem: BandProblem, incumbent: Incumbent, clock: Clock, kicks: int, gap_s: float = 0.0
) -> Incumbent:
    """`descend`, also from owners that matching suggests or, where few subchannels are heard, prices and packing.

    The latter are for gaps of more than a few percent, and of more than `gap_s`.
    """
    found = descend(problem, incumbent, clock, kicks)
    if kicks == 0 or found.delay_s == np.inf:
        return found
    if tables.matching is not None:
        found = _descend_matched(tables.matching, problem, found, clock, kicks)
    return _descend_packed(problem, found, kicks, gap_s) if is_sparse(problem) else found


def _descend_packed(problem: BandProblem, found: Incumbent, kicks: int, gap_s: float) -> Incumbent:
    """Local search from what prices, then linear programs suggest for delays near the bound, then for later ones."""

    def allowed_s() -> float:
        return max(gap_s, _FIRST_GAP * found.delay_s)

    with_tolerance, programs, near = with_cap_tolerance(problem), 0, _NEAR
    if found.gap_s > (close_s := allowed_s()):
        found = raise_lower_bound(problem, found, found.delay_s - 0.5 * close_s, 0.25 * close_s, _ITERATIONS_A_TURN)
        found = search_below(problem, found, found.bound_s + near * found.gap_s, kicks, 1)
    while found.prices is not None and found.gap_s > allowed_s() and programs < _FIRST_PROGRAMS:
        target_s, before_s = found.bound_s + near * found.gap_s, found.delay_s
        packing = pack(with_tolerance, found.prices.weight_M1, found.owner_M, target_s, _FIRST_PROGRAMS // 2)
        programs += max(packing.programs, 1)
        if packing.weight_M1 is not None:
            found = replace(found, bound_s=target_s, packing_weight_M1=packing.weight_M1)
        else:
            found = _better(problem, found, local_owners(problem, target_s, packing.owner_M, kicks, programs))
            near = _NEAR if found.delay_s < before_s else 0.5 * (near + 1)
    return found


def _descend_matched(matching: Matching, problem: BandProblem, found: Incumbent, clock: Clock, kicks: int) -> Incumbent:
    if found.bound_s >= _OPEN * found.delay_s or clock.expired:
        return found
    matching, none_K = matching._replace(problem=with_cap_tolerance(problem)), np.zeros(len(problem.need_K))
    low_s, matched_M = matching.least_up_s(none_K, found.bound_s, found.delay_s)
    target_s = low_s + _LATER * (found.delay_s - low_s)
    if matched_M is None or target_s <= _last_start_s(problem):
        return found
    near_M = local_owners(problem, target_s, matched_M, _MATCHED_KICKS, 0)
    other = replace(found, owner_M=near_M, delay_s=owners_delay(problem, near_M))
    return min(found, descend(problem, other, clock, kicks) if np.isfinite(other.delay_s) else found, key=_delay)


def search_below(problem: BandProblem, incumbent: Incumbent, target_s: float, kicks: int, seed: int) -> Incumbent:
    """Local search for owners that meet `target_s`; the better of what it finds and what was known.

    It starts from the best owners or, for odd seeds, from what the prices' cheapest bundles suggest.
    """
    owner_M = incumbent.owner_M
    if seed % 2 == 1 and incumbent.prices is not None:
        owner_M = rounded_owners(problem, copy_prices(incumbent.prices), target_s)
    if np.any(target_s <= problem.ready_K[problem.need_K > 0]):
        return incumbent
    return _better(problem, incumbent, local_owners(problem, target_s, owner_M, kicks, seed))


def local_owners(problem: BandProblem, target_s: float, owner_M: IntArray, kicks: int, seed: int) -> IntArray:
    """Owners by local search that come near to a delay after the last start, whether they meet it or not."""
    demand = _demand(problem, target_s)
    owner_M = search(demand, owner_M, kicks, seed)
    if len(problem.steps.snr_I) == 0:
        return owner_M
    return search(demand._replace(whole=True), owner_M, -(-kicks // _STEPPED), seed)


def _demand(problem: BandProblem, target_s: float) -> Demand:
    """What the clients need to meet a delay after the last of them has started."""
    left_s_K = np.where(problem.need_K > 0, target_s - problem.ready_K, np.inf)
    rate_K = problem.need_K / left_s_K
    shortage_price_K = _EXCESS_PRICE * problem.total_w / np.maximum(problem.ask_K, 1e-300)
    return Demand(
        problem.log_KM, problem.inverse_KM, rate_K, problem.cap_w_K, problem.total_w, _excess_prices(problem),
        problem.limit, problem.back_KM, problem.ask_K, shortage_price_K, problem.steps,
    )  # fmt: skip


def _better(problem: BandProblem, incumbent: Incumbent, owner_M: IntArray) -> Incumbent:
    """The incumbent with other owners where these are faster."""
    delay_s = owners_delay(problem, owner_M)
    return replace(incumbent, owner_M=owner_M, delay_s=delay_s) if delay_s < incumbent.delay_s else incumbent


def _excess_prices(problem: BandProblem) -> Array:
    """What a watt above a client's own cap costs, so that an excess costs by its share of the cap."""
    return np.minimum(_EXCESS_PRICE * problem.total_w / np.maximum(problem.cap_w_K, 1e-300), 1e60)


def raise_lower_bound(
    problem: BandProblem, incumbent: Incumbent, goal_s: float, tolerance_s: float, iterations: int
) -> Incumbent:
    """Raise the lower bound towards `goal_s`."""
    prices, problem = incumbent.prices, with_cap_tolerance(problem)
    low_s = min(incumbent.bound_s, incumbent.priced_s)
    if prices is None:
        prices = uniform_prices(problem, incumbent.owner_M, low_s, incumbent.delay_s)
        low_s = provable_delay(problem, prices, low_s, goal_s)
    trial_step_s = incumbent.trial_step_s
    if low_s < goal_s:
        low_s, trial_step_s = raise_bound(problem, prices, low_s, goal_s, trial_step_s, tolerance_s, iterations)
    found = {"bound_s": max(incumbent.bound_s, low_s), "priced_s": low_s}
    return replace(incumbent, prices=prices, trial_step_s=trial_step_s, **found)


def begin_anew(
    problem: BandProblem, incumbent: Incumbent, goal_s: float, tolerance_s: float, iterations: int
) -> Incumbent:
    """Raise the lower bound with fresh prices; the incumbent given where they do not lead further."""
    problem, low_s = with_cap_tolerance(problem), incumbent.bound_s
    low_s, step_s, prices = raise_afresh(problem, incumbent.owner_M, low_s, goal_s, tolerance_s, iterations)
    if prices is None:
        return incumbent
    return replace(incumbent, prices=prices, bound_s=low_s, priced_s=low_s, trial_step_s=step_s)


def bound_by_prices(problem: BandProblem, prices: Prices, low_s: float, goal_s: float) -> float:
    """What the prices of another problem prove for this one, at most `goal_s`; at least `low_s`, already proved (s)."""
    return provable_delay(with_cap_tolerance(problem), copy_prices(prices), low_s, goal_s)


def solve(
    problem: BandProblem, incumbent: Incumbent, gap_s: float, effort: Effort, clock: Clock, beat_s: float = np.inf
) -> Incumbent:
    """Search and bound in turns until they are within `gap_s`, the effort is spent or the time is up.

    It also ends once the bound proves that `beat_s` cannot be beaten. Rates in steps come after the one above them.
    """
    if len(problem.steps.snr_I):
        smooth = problem._replace(steps=NO_STEPS)
        above = replace(incumbent, delay_s=owners_delay(smooth, incumbent.owner_M))
        above = solve(smooth, above, gap_s, effort, clock, beat_s)
        known = replace(above, owner_M=incumbent.owner_M, delay_s=incumbent.delay_s)
        incumbent, effort = _better(problem, known, above.owner_M), replace(effort, iterations=0, branches=0)
    share, iterations, tolerance_s, packed, afresh = 0.5, effort.iterations, 0.25 * gap_s, False, False
    a_turn = clock.portion(_ITERATIONS_A_TURN, problem.log_KM.size)
    for turn in range(effort.searches):
        if clock.expired:
            return incumbent
        if incumbent.gap_s > gap_s and iterations > 0 and incumbent.trial_step_s > tolerance_s:
            goal_s = min(incumbent.delay_s - 0.5 * gap_s, beat_s)
            before_s = incumbent.bound_s
            incumbent = raise_lower_bound(problem, incumbent, goal_s, tolerance_s, min(a_turn, iterations))
            iterations -= a_turn
            stuck = incumbent.gap_s > max(_STUCK * incumbent.delay_s, 10.0 * (incumbent.bound_s - before_s))
            if stuck and not afresh and iterations > 0:
                fresh = min(a_turn, iterations, max(_FEWEST_FRESH, _MOST_FRESH // problem.log_KM.size))
                incumbent, afresh = begin_anew(problem, incumbent, goal_s, tolerance_s, fresh), True
        if incumbent.gap_s <= gap_s or incumbent.bound_s >= beat_s or clock.expired:
            return incumbent
        if turn == 1:
            before_s = incumbent.bound_s
            incumbent = close_by_packing(problem, incumbent, gap_s, effort, clock, beat_s)
            packed = incumbent.bound_s > before_s
        if share * incumbent.gap_s > 0.2 * gap_s:
            # In vast bands the way from the prices' bundles to good owners is long: taken once, and then even seeds.
            seed = 2 * turn if turn > 0 and problem.log_KM.size > _VAST else turn + 1
            target_s = incumbent.delay_s - share * incumbent.gap_s
            better = search_below(problem, incumbent, target_s, effort.kicks, seed)
            share = 0.5 if better.delay_s < incumbent.delay_s else 0.5 * share
            incumbent = better
    if incumbent.gap_s <= gap_s or incumbent.bound_s >= beat_s:
        return incumbent
    wide = packed and incumbent.gap_s > _HOPELESS * gap_s
    return branch(problem, incumbent, gap_s, 0 if wide else effort.branches, clock)


def close_by_packing(
    problem: BandProblem, incumbent: Incumbent, gap_s: float, effort: Effort, clock: Clock, beat_s: float
) -> Incumbent:
    """Close a wide gap of a small band by set packing: refute delays, or take the owners that it suggests instead."""
    if not is_small(problem):
        return incumbent
    prices = incumbent.prices  # none where counting alone has proved so much
    if prices is None:
        prices = uniform_prices(with_cap_tolerance(problem), incumbent.owner_M, incumbent.bound_s, incumbent.delay_s)
    weight_M1, open_s, programs = prices.weight_M1, np.inf, 0
    for serial in range(_MOST_PACKINGS):
        target_s = min(incumbent.delay_s - 0.5 * gap_s, beat_s)
        if open_s <= target_s:  # The program does not refute this one: another is tried, halfway to the bound.
            target_s = 0.5 * (incumbent.bound_s + open_s)
        if (
            incumbent.gap_s <= _WIDE * gap_s
            or incumbent.bound_s >= beat_s
            or clock.expired
            or programs > _MOST_PROGRAMS
        ):
            break
        packing = pack(with_cap_tolerance(problem), weight_M1, incumbent.owner_M, target_s)
        programs += packing.programs
        if packing.weight_M1 is not None:
            weight_M1 = packing.weight_M1
            incumbent = replace(incumbent, bound_s=target_s, packing_weight_M1=weight_M1, priced_s=target_s)
        else:
            open_s = target_s
            found_M = local_owners(problem, target_s, packing.owner_M, effort.kicks, serial)
            incumbent = _better(problem, incumbent, found_M)
    return incumbent


def _last_start_s(problem: BandProblem) -> float:
    return float(np.max(problem.ready_K[problem.need_K > 0]))


def branch(problem: BandProblem, incumbent: Incumbent, gap_s: float, nodes: int, clock: Clock) -> Incumbent:
    """Raise the bound until within `gap_s` of the best known delay, or `nodes` branches are spent."""
    if incumbent.prices is None or incumbent.gap_s <= gap_s:
        return incumbent
    open_nodes: list[tuple[float, int, BandProblem, Prices]] = [
        (min(incumbent.bound_s, incumbent.priced_s), 0, with_cap_tolerance(problem), incumbent.prices)
    ]
    closed_s, serial = np.inf, 0
    for _ in range(nodes):
        bound_s, _, node, prices = open_nodes[0]
        goal_s = incumbent.delay_s - 0.5 * gap_s
        if min(bound_s, closed_s) >= incumbent.delay_s - gap_s or clock.expired:
            break
        heapq.heappop(open_nodes)
        k, i = most_divided(node, prices, bound_s + 0.1 * (goal_s - bound_s))
        branches = children(node, prices, k, i) if k >= 0 else []
        if not branches:
            owner_M = np.where(np.any(node.log_KM > NO_GAIN_LOG2, axis=0), np.argmax(node.log_KM, axis=0), -1)
            closed_s = min(closed_s, optimal_power(node, owner_M)[0] * (1 - 1e-9))
            incumbent = min(
                incumbent, replace(incumbent, owner_M=owner_M, delay_s=owners_delay(problem, owner_M)), key=_delay
            )
        for child in branches:
            serial += 1
            raised_s, _ = raise_bound(*child, bound_s, goal_s, np.inf, 0.25 * gap_s, _BRANCH_ITERATIONS)
            heapq.heappush(open_nodes, (raised_s, serial, *child))
        if not open_nodes:
            return replace(incumbent, bound_s=min(closed_s, incumbent.delay_s))
    low_s = min(open_nodes[0][0], closed_s, incumbent.delay_s)
    return replace(incumbent, bound_s=max(incumbent.bound_s, low_s))


def _delay(incumbent: Incumbent) -> float:
    return incumbent.delay_s


def children(problem: BandProblem, prices: Prices, k: int, i: int) -> list[tuple[BandProblem, Prices]]:
    """Both branches: client k owns subchannel i, or cannot hear it."""
    given, denied = problem.log_KM.copy(), problem.log_KM.copy()
    given[np.arange(len(given)) != k, i] = NO_GAIN_LOG2
    denied[k, i] = NO_GAIN_LOG2
    free = copy_prices(prices)
    free.weight_M1[i] = 0.0  # Nobody else can hear it, so that it has no price.
    free.weight_M1[:] /= np.sum(free.weight_M1)
    problem = problem._replace(ranking=NO_RANKING)
    return [(problem._replace(log_KM=given), free), (problem._replace(log_KM=denied), copy_prices(prices))]
