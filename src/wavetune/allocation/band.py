"""Solve one band: who owns what and with how much power, so that the last client is done early; and how early at best.

Problem: min over owners and powers of max_k(ready_k + need_k / rate_k), a race of the clients. Search and bound drive
each other: the local search is asked for delays between the bound and the best known, the bound for delays just below
the best known, until they meet or the effort is spent.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field, replace

import numpy as np

from wavetune.allocation.dual_bound import most_divided, provable_delay, raise_bound, rounded_owners, uniform_prices
from wavetune.allocation.effort import Clock, Effort
from wavetune.allocation.feasibility import FORGIVEN, match_subchannels, usable_subchannels
from wavetune.allocation.local_search import Demand, first_owners, search
from wavetune.allocation.prices import Prices
from wavetune.allocation.problem import IntArray, RadioBand
from wavetune.allocation.water_filling import NO_GAIN_LOG2, Race, log_and_inverse, lone_rates, owners_delay
from wavetune.units import Array


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


_STEP = 0.02
_ITERATIONS_A_TURN = 60


@dataclass(frozen=True, eq=False)
class Track:
    """A band with its tables, on which clients race."""

    band: RadioBand
    cap_w_K: Array
    snr_per_w_KM: Array = field(init=False)
    log_KM: Array = field(init=False)
    inverse_KM: Array = field(init=False)
    lone_rate_K: Array = field(init=False)

    def __post_init__(self) -> None:
        snr_per_w_KM = np.ascontiguousarray(self.band.snr_per_w_KM)
        log_KM, inverse_KM = log_and_inverse(snr_per_w_KM)
        most_w_K = np.minimum(self.cap_w_K, self.band.total_power_max_w) * (1 + FORGIVEN)
        tables = {
            "snr_per_w_KM": snr_per_w_KM,
            "log_KM": log_KM,
            "inverse_KM": inverse_KM,
            "lone_rate_K": lone_rates(snr_per_w_KM, most_w_K),
        }
        for name, table in tables.items():
            object.__setattr__(self, name, table)

    def race(self, ready_s_K: Array, bits_K: Array) -> Race:
        """Race of clients that start to send `bits_K` at `ready_s_K`."""
        need_K = np.asarray(bits_K / self.band.subchannel_hz, dtype=np.float64)
        ready_K = np.ascontiguousarray(ready_s_K, dtype=np.float64)
        return Race(self.log_KM, self.inverse_KM, ready_K, need_K, self.cap_w_K, self.band.total_power_max_w)

    def lone_bound_s(self, race: Race) -> float:
        """Least delay of the client that would finish last if each had the whole band to itself (s)."""
        sends = race.need_K > 0
        return float(np.max(race.ready_K[sends] + race.need_K[sends] / self.lone_rate_K[sends])) * (1 - 1e-6)


def start(track: Track, race: Race, owner_M: IntArray | None = None) -> Standing:
    """First standing: given owners or, where these leave a client without a rate, greedy ones."""
    low_s = track.lone_bound_s(race)
    if owner_M is not None and owner_M.shape == (track.band.num_subchannels,):
        owner_M = np.where((owner_M >= 0) & (race.need_K[owner_M] > 0), owner_M, -1)
        delay_s = owners_delay(race, owner_M)
        if np.isfinite(delay_s):
            return Standing(owner_M, delay_s, min(low_s, delay_s))
    usable_KM = usable_subchannels(track.band, track.cap_w_K)
    senders = np.flatnonzero(race.need_K > 0)
    seed_K = np.full(len(race.need_K), -1, dtype=np.int64)
    crowded = np.any(usable_KM[senders].sum(axis=1) < len(senders))
    seed_K[senders] = match_subchannels(usable_KM[senders]) if crowded else 0
    heard_KM = np.where(usable_KM, track.snr_per_w_KM, 0.0)
    weak_first_K = np.argsort(np.sum(np.log1p(heard_KM * (race.total_w / heard_KM.shape[1])), axis=1), kind="stable")
    owner_M = first_owners(heard_KM, race.ready_K, race.need_K, race.cap_w_K, race.total_w, weak_first_K, seed_K)
    delay_s = owners_delay(race, owner_M)
    return Standing(owner_M, delay_s, min(low_s, delay_s))


def descend(race: Race, standing: Standing, clock: Clock) -> Standing:
    """Local search without kicks, for delays ever closer to the best known; nothing to do where nobody sends."""
    step = _STEP if np.any(race.need_K > 0) else 0.0
    while step > 1e-4 and not clock.expired:
        target_s = standing.delay_s - step * (standing.delay_s - _last_start_s(race))
        better = attempt(race, standing, target_s, 0, 0)
        step = step if better.delay_s < standing.delay_s * (1 - 1e-6) else step / 4
        standing = better
    return standing


def attempt(race: Race, standing: Standing, target_s: float, kicks: int, seed: int) -> Standing:
    """Local search for owners that meet `target_s`; the better of what it finds and what was known.

    It starts from the best owners or, for odd seeds, from what the prices' cheapest bundles suggest.
    """
    owner_M = standing.owner_M
    if seed % 2 == 1 and standing.prices is not None:
        owner_M = rounded_owners(race, copied(standing.prices), target_s)
    left_s_K = np.where(race.need_K > 0, target_s - race.ready_K, np.inf)
    if np.any(left_s_K <= 0):
        return standing
    with np.errstate(over="ignore"):  # An infinite rate costs too much, as it should.
        rate_K = race.need_K / left_s_K
    demand = Demand(race.log_KM, race.inverse_KM, rate_K, race.cap_w_K, race.total_w)
    owner_M = search(demand, owner_M, kicks, seed)
    delay_s = owners_delay(race, owner_M)
    return replace(standing, owner_M=owner_M, delay_s=delay_s) if delay_s < standing.delay_s else standing


def tighten(race: Race, standing: Standing, goal_s: float, tolerance_s: float, iterations: int) -> Standing:
    """Raise the lower bound towards `goal_s`."""
    prices, low_s, race = standing.prices, standing.bound_s, forgiving(race)
    if prices is None:
        prices = uniform_prices(race, standing.owner_M, low_s, standing.delay_s)
        low_s = provable_delay(race, prices, low_s, goal_s)
    reach_s = standing.reach_s
    if low_s < goal_s:
        low_s, reach_s = raise_bound(race, prices, low_s, goal_s, reach_s, tolerance_s, iterations)
    return replace(standing, bound_s=low_s, prices=prices, reach_s=reach_s)


def bound_by_prices(race: Race, prices: Prices, low_s: float, goal_s: float) -> float:
    """What the prices of another race prove for this one, at most `goal_s`; at least `low_s`, already proved (s)."""
    return provable_delay(forgiving(race), copied(prices), low_s, goal_s)


def solve(
    race: Race, standing: Standing, gap_s: float, effort: Effort, clock: Clock, beat_s: float = np.inf
) -> Standing:
    """Search and bound in turns until they are within `gap_s`, the effort is spent or the time is up.

    It also ends once the bound proves that `beat_s` cannot be beaten.
    """
    share, iterations, tolerance_s = 0.5, effort.iterations, 0.25 * gap_s
    a_turn = clock.portion(_ITERATIONS_A_TURN, race.log_KM.size)
    for turn in range(effort.searches):
        if clock.expired:
            return standing
        if standing.gap_s > gap_s and iterations > 0 and standing.reach_s > tolerance_s:
            goal_s = min(standing.delay_s - 0.5 * gap_s, beat_s)
            standing = tighten(race, standing, goal_s, tolerance_s, a_turn)
            iterations -= a_turn
        if standing.gap_s <= gap_s or standing.bound_s >= beat_s or clock.expired:
            return standing
        if share * standing.gap_s > 0.2 * gap_s:
            better = attempt(race, standing, standing.delay_s - share * standing.gap_s, effort.kicks, turn + 1)
            share = 0.5 if better.delay_s < standing.delay_s else 0.5 * share
            standing = better
    return branch(race, standing, gap_s, effort.branches, clock)


def _last_start_s(race: Race) -> float:
    return float(np.max(race.ready_K[race.need_K > 0]))


_ITERATIONS = 40


def branch(race: Race, standing: Standing, gap_s: float, nodes: int, clock: Clock) -> Standing:
    """Raise the bound until within `gap_s` of the best known delay, or `nodes` branches are spent."""
    if standing.prices is None or standing.gap_s <= gap_s:
        return standing
    open_nodes: list[tuple[float, int, Race, Prices]] = [(standing.bound_s, 0, forgiving(race), standing.prices)]
    closed_s, serial = np.inf, 0
    for _ in range(nodes):
        bound_s, _, node, prices = open_nodes[0]
        goal_s = standing.delay_s - 0.5 * gap_s
        if min(bound_s, closed_s) >= standing.delay_s - gap_s or clock.expired:
            break
        heapq.heappop(open_nodes)
        children = _children(node, prices, bound_s + 0.1 * (goal_s - bound_s))
        if not children:
            owner_M = np.where(np.any(node.log_KM > NO_GAIN_LOG2, axis=0), np.argmax(node.log_KM, axis=0), -1)
            closed_s = min(closed_s, owners_delay(node, owner_M) * (1 - 1e-9))
            standing = min(
                standing, replace(standing, owner_M=owner_M, delay_s=owners_delay(race, owner_M)), key=_delay
            )
        for child in children:
            serial += 1
            raised_s, _ = raise_bound(*child, bound_s, goal_s, np.inf, 0.25 * gap_s, _ITERATIONS)
            heapq.heappush(open_nodes, (raised_s, serial, *child))
        if not open_nodes:
            return replace(standing, bound_s=min(closed_s, standing.delay_s))
    low_s = min(open_nodes[0][0], closed_s, standing.delay_s)
    return replace(standing, bound_s=max(standing.bound_s, low_s))


def _delay(standing: Standing) -> float:
    return standing.delay_s


def _children(race: Race, prices: Prices, delay_s: float) -> list[tuple[Race, Prices]]:
    """Both branches, on what is most open at a delay; none where nothing is."""
    k, i = most_divided(race, prices, delay_s)
    if k < 0:
        return []
    given, denied = race.log_KM.copy(), race.log_KM.copy()
    given[np.arange(len(given)) != k, i] = NO_GAIN_LOG2
    denied[k, i] = NO_GAIN_LOG2
    free = copied(prices)
    free.weight_M1[i] = 0.0  # Nobody else can hear it, so that it has no price.
    free.weight_M1[:] /= np.sum(free.weight_M1)
    return [(race._replace(log_KM=given), free), (race._replace(log_KM=denied), copied(prices))]
