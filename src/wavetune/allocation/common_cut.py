"""Plan with one cut and one rank for all clients: owners and powers with them, and a certified lower bound.

For a given cut and rank the two bands do not couple. The fed band is one problem of equal payloads, solved once and
scaled to every pair of cut and rank. The main band is a problem per pair; what is proved for one pair bounds the
others, so that nearly all are ruled out without a search of their own. The rest is searched, best bound first.
Shape suffixes: K clients, M subchannels.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from wavetune.allocation.band import BandTables, Incumbent, bound_by_prices, descend, first_incumbent, solve
from wavetune.allocation.both_ways import Asked, BothWays, TwoWays
from wavetune.allocation.delay import least_downlinks_s, load_of
from wavetune.allocation.effort import Clock, Effort, effort_of
from wavetune.allocation.feasibility import check_feasible
from wavetune.allocation.greedy import greedy_owners
from wavetune.allocation.ladder import owners_delay
from wavetune.allocation.owner_program import is_tiny
from wavetune.allocation.plan import Allocation, Plan, infeasible, make_plan
from wavetune.allocation.power import allocate_power
from wavetune.allocation.problem import IntArray, Problem
from wavetune.allocation.water_filling import BandProblem
from wavetune.units import Array

_TOLERANCE, _WARM_TOLERANCE, _TWO_WAY_TOLERANCE = 1e-4, 1e-3, 1e-3
_ROUNDING = 1e-9
_QUICK, _FIRST_KICKS, _FIRST_CLOSE = 300_000, 40, 0.01  # size of a band that a local search takes milliseconds for
_WIDE = 5e-3  # of a delay; a gap that integer programs are asked to close
_FEW_HALVINGS = 10  # where the gap need not be closed
_OPEN_SHARE = 0.03  # of what both ways leave open, within which the uplink alone is planned


def plan_common_cut(
    problem: Problem, time_limit_s: float | None = None, warm_start: Plan | None = None, closes: bool = True
) -> Plan:
    """Plan with one cut and one rank for all clients; arguments and result are those of `planner.plan`.

    Unless it `closes` the gap of both ways, they keep the owners and the bound that come soon.
    """
    feasible = check_feasible(problem)
    if not feasible.pairs:
        return infeasible(feasible.reason)
    return search_common_cut(problem, feasible.pairs, time_limit_s, warm_start, closes).best_plan()


def search_common_cut(
    problem: Problem,
    pairs: Sequence[tuple[int, int]],
    time_limit_s: float | None = None,
    warm_start: Plan | None = None,
    closes: bool = True,
) -> CommonCutSearch:
    """The search at its end, with what it proved; over at least one pair of cut and rank, each with a plan."""
    clock = Clock(np.inf if time_limit_s is None else time.monotonic() + time_limit_s)
    search = CommonCutSearch(problem, pairs_of(problem, pairs), warm_start, closes)
    search.run(clock)
    return search


@dataclass(frozen=True, eq=False)
class CutRankPair:
    """One cut and rank.

    Its total delay is rounds * (steps * (step + server) + fed bits * fed), where `step` is both ways of a step, up to
    when the last activations arrive and from the server's answer to the end of the last backward pass, and `fed` both
    ways of a bit of adapters. The way back of a step takes `down_s` at least.
    """

    cut: int
    rank: int
    rounds: float
    steps: int
    ready_s_K: Array
    bits_K: Array
    server_s: float
    down_bits_K: Array
    back_s_K: Array
    down_s: float
    fed_bits: float

    def delay_s(self, step_s: float, fed_s_per_bit: float) -> float:
        """Total delay (s)."""
        return self.rounds * (self.steps * (step_s + self.server_s) + self.fed_bits * fed_s_per_bit)

    def step_s(self, delay_s: float, fed_s_per_bit: float) -> float:
        """What both ways of a step may take for a total delay (s)."""
        return (delay_s / self.rounds - self.fed_bits * fed_s_per_bit) / self.steps - self.server_s

    def later_s(self, other: CutRankPair) -> float:
        """How much later than another's its last activations arrive at least, for any owners and powers (s).

        Whoever sends no less and is ready no earlier than s later is done at least s later.
        """
        sends_no_less = np.all(self.bits_K >= other.bits_K)
        return float(np.min(self.ready_s_K - other.ready_s_K)) if sends_no_less else -np.inf

    def later_both_ways_s(self, other: CutRankPair) -> float:
        """How much later than another's both ways of a step end at least, for any owners and powers (s)."""
        receives_no_less = np.all(self.down_bits_K >= other.down_bits_K)
        return self.later_s(other) + float(np.min(self.back_s_K - other.back_s_K)) if receives_no_less else -np.inf


def pairs_of(problem: Problem, pairs: Sequence[tuple[int, int]]) -> list[CutRankPair]:
    """Numbers of cuts and ranks, each the same for all clients."""
    load = load_of(problem, *(np.array(one)[:, None] for one in zip(*pairs, strict=True)))
    server_s_P = (load.server_forward_flop_I + load.server_backward_flop_I)[0] / problem.server_flop_per_s
    ready_s_PK = load.client_forward_flop_IK[0] / problem.client_flop_per_s_K
    back_s_PK = load.client_backward_flop_IK[0] / problem.client_flop_per_s_K
    down_bits_PK, down_s_P = load.downlink_bits_IK[0], np.max(back_s_PK, axis=1)
    if problem.price_downlink:
        down_s_P = least_downlinks_s(problem.main, down_bits_PK, back_s_PK)
    return [
        CutRankPair(
            cut=cut,
            rank=rank,
            rounds=problem.rounds_to_target[rank],
            steps=problem.local_steps,
            ready_s_K=ready_s_PK[p],
            bits_K=load.uplink_bits_IK[0][p],
            server_s=float(server_s_P[p]),
            down_bits_K=down_bits_PK[p],
            back_s_K=back_s_PK[p],
            down_s=float(down_s_P[p]),
            fed_bits=float(load.fed_upload_bits_K[p, 0]),
        )
        for p, (cut, rank) in enumerate(pairs)
    ]


class CommonCutSearch:
    """State of a search: what is known of the fed band and, per pair, of the main band.

    Incumbents are of the uplink alone. Where the way back takes time, `two_ways` are of both; else it takes `down_s` of
    a pair and nothing of the adapters.
    """

    def __init__(
        self, problem: Problem, pairs: list[CutRankPair], warm_start: Plan | None, closes: bool = True
    ) -> None:
        self.problem, self.pairs, self.closes = problem, pairs, closes
        self.warm = warm_start if warm_start is not None and warm_start.status == "ok" else None
        self.tolerance = _TOLERANCE if self.warm is None else _WARM_TOLERANCE
        self.main = BandTables(problem.main, problem.tx_power_max_w_K)
        self.fed = BandTables(problem.fed, problem.tx_power_max_w_K)
        self.main_problems = [self.main.problem(c.ready_s_K, c.bits_K) for c in pairs]
        self.ways = [
            BothWays(problem.main, uplink, pair.down_bits_K, pair.back_s_K)
            for uplink, pair in zip(self.main_problems, pairs, strict=True)
        ]
        self.bounds_s = self._lone_bounds_s()
        none_K = np.zeros(problem.num_clients)
        self.fed_problem = self.fed.problem(none_K, none_K + 1.0)
        self.fed_ways = BothWays(problem.fed, self.fed_problem, none_K + problem.costs.download_share, none_K)
        self.fed_down_s = self.fed_ways.least_down_s if problem.price_downlink else 0.0
        sends = any(c.fed_bits > 0 for c in pairs)
        self.fed_incumbent = (
            self._started(self.fed, self.fed_problem, self.warm and self.warm.fed.owner_M) if sends else None
        )
        self.incumbents: dict[int, Incumbent] = {}
        self.two_ways: dict[int, TwoWays] = {}
        self.fed_two_ways: TwoWays | None = None
        self.best = self._first_pair()
        size = self.main.snr_per_w_KM.size
        self.effort, self._most_pairs = effort_of(size, self.warm is not None), max(4, min(24, 1_000_000 // size))

    def run(self, clock: Clock) -> None:
        """Improve the best plan and its bound until nothing is left to do or the time is up."""
        self._descend(clock)
        self._descend_both_ways()
        if clock.expired:
            return
        # A bound for every pair first, so that an answer cut short knows how good it is.
        for effort in (self.effort,) if self.warm else (self.effort.briefly, self.effort):
            self._solve_fed(effort, clock)
            self._solve_main(self.best, effort, clock)
            self._bound_others(clock)
        self._serve_both_ways(clock)
        for i in self._open_pairs():
            if clock.expired:
                return
            self._search_pair(i, clock)

    def _descend_both_ways(self) -> None:
        """Owners of both bands for both ways by local search."""
        if not self.problem.price_downlink:
            return
        i, clock = self.best, Clock()  # part of the first plan, as owners for the uplink alone can take twice as long
        if np.any(self.pairs[i].bits_K > 0):
            self.two_ways[i] = self.ways[i].improve(self._starts(i, 0), self.bounds_s[i], 0, clock, _FIRST_CLOSE)
        if self.fed_incumbent is not None and self.pairs[i].fed_bits > 0:
            up_s = self.fed_incumbent.bound_s
            self.fed_two_ways = self.fed_ways.improve(self._starts(i, 1), up_s, 0, clock, _FIRST_CLOSE)

    def _starts(self, i: int, band: int) -> list[IntArray]:
        """Owners to start from for both ways of a band: known ones, the last round's, or fresh ones."""
        incumbent = self.fed_incumbent if band else self.incumbents[i]
        known = self.fed_two_ways if band else self.two_ways.get(i)
        assert incumbent is not None
        if self.warm is None:
            owners = [incumbent.owner_M, *(owners[band] for owners in self._greedy_owners)]
            matched_M = (self.fed_ways if band else self.ways[i]).matched_owners()
            owners += [] if matched_M is None else [matched_M]
            return owners if known is None else [known.owner_M, *owners]
        if known is not None:
            return [known.owner_M]
        warm_M = (self.warm.fed if band else self.warm.main).owner_M  # none of who sat out of that plan
        senders = np.flatnonzero((self.fed_problem if band else self.main_problems[i]).need_K > 0)
        serves = warm_M.shape == incumbent.owner_M.shape and bool(np.isin(senders, warm_M).all())
        return [warm_M if serves else incumbent.owner_M]

    @cached_property
    def _greedy_owners(self) -> list[tuple[IntArray, IntArray]]:
        """Owners of both bands by the greedy methods, for the pair that is best of the uplink alone."""
        pair = self.pairs[self.best]
        return [greedy_owners(self.problem, pair.cut, pair.rank, whole) for whole in (False, True)]

    def _serve_both_ways(self, clock: Clock) -> None:
        """Owners of both bands that suit the way back too, where it takes time, and a bound of both ways together."""
        if not self.problem.price_downlink or clock.expired:
            return
        first, pair = self.best, self.pairs[self.best]
        if self.fed_two_ways is not None and self.fed_incumbent is not None:
            up_s, starts, kicks = self.fed_incumbent.bound_s, self._starts(first, 1), self.effort.kicks // 8
            known = self.fed_two_ways = self.fed_ways.improve(starts, up_s, kicks, clock)
            gap_s = 0.5 * _TWO_WAY_TOLERANCE * self._upper_s(first) / (pair.rounds * pair.fed_bits)
            asked = Asked(self.fed_incumbent.prices, up_s, gap_s, np.inf, self.effort, clock)
            self.fed_two_ways = self._solve_ways(self.fed_ways, known, asked)
        self._serve_pair(first, self._starts(first, 0), clock)
        for i in sorted(range(len(self.pairs)), key=self._lower_s)[: self._most_pairs if self.two_ways else 0]:
            if i != first and self._lower_s(i) < self._upper_s(self._leading()) * (1 - _TWO_WAY_TOLERANCE):
                self._serve_pair(i, [self.two_ways[self._leading()].owner_M], clock)

    def _serve_pair(self, i: int, starts: list[IntArray], clock: Clock) -> None:
        """The best owners for both ways of a pair's steps, and how soon they can end, or that they cannot be better."""
        pair, ways, beat_s = self.pairs[i], self.ways[i], np.inf
        if not np.any(pair.bits_K > 0):
            return
        known = ways.improve(starts, self.bounds_s[i], self.effort.kicks // 8, clock)
        if self.two_ways.keys() - {i}:
            least_s, (fed_s, fed_bound_s) = self._upper_s(self._leading()), self._fed_s()
            if pair.delay_s(known.delay_s, fed_s) >= least_s and self._lower_s(i) >= self._lower_s(self._leading()):
                self.two_ways[i] = known  # not the best, nor its bound the least
                return
            beat_s = pair.step_s(least_s * (1 - _TWO_WAY_TOLERANCE), fed_bound_s)
        gap_s = 0.5 * _TWO_WAY_TOLERANCE * pair.delay_s(known.delay_s, self._fed_s()[0]) / (pair.rounds * pair.steps)
        prices = self.incumbents.get(i, self.incumbents[self.best]).prices
        asked = Asked(prices, self.bounds_s[i], gap_s, beat_s, self.effort, clock)
        self.two_ways[i] = self._solve_ways(ways, known, asked)

    def _solve_ways(self, ways: BothWays, known: TwoWays, asked: Asked) -> TwoWays:
        """Owners and bound of both ways; in tiny bands by integer programs where all else leaves a wide gap."""
        if not self.closes:
            asked = asked._replace(effort=replace(self.effort, programs=0, halvings=_FEW_HALVINGS))
        known = ways.solve(ways.polish(known, asked.gap_s, asked.clock), asked)
        open_s = min(known.delay_s, asked.beat_s) - known.bound_s
        if not self.closes or self.warm is not None or asked.clock.end_s < np.inf or not open_s > _WIDE * known.delay_s:
            return known
        return ways.close(known, asked.up_s, asked.gap_s, asked.beat_s) if is_tiny(ways.uplink) else known

    def best_plan(self) -> Plan:
        """Best plan so far, with the least bound over all pairs."""
        plans = [self._plan_of(i, known.owner_M) for i, known in {**self.incumbents, **self.two_ways}.items()]
        best = min(plans, key=lambda p: p.delay_s)
        lower_s = min(self._lower_s(i) for i in range(len(self.pairs)))
        return replace(best, lower_bound_s=min(lower_s * (1 - _ROUNDING), best.delay_s))

    def _plan_of(self, i: int, owner_M: IntArray) -> Plan:
        problem, pair = self.problem, self.pairs[i]
        caps = problem.tx_power_max_w_K
        main, _ = allocate_power(problem.main, owner_M, pair.ready_s_K, pair.bits_K, caps)
        fed = Allocation(np.full(problem.fed.num_subchannels, -1), np.zeros(problem.fed.num_subchannels))
        if self.fed_incumbent is not None and pair.fed_bits > 0:
            at_once_K, bits_K = np.zeros(problem.num_clients), np.full(problem.num_clients, pair.fed_bits)
            owner_M = (self.fed_two_ways or self.fed_incumbent).owner_M
            fed, _ = allocate_power(problem.fed, owner_M, at_once_K, bits_K, caps)
        return make_plan(problem, pair.cut, pair.rank, main, fed)

    def _fed_s(self) -> tuple[float, float]:
        """Best known and least possible delay of a bit of adapters (s)."""
        if self.fed_incumbent is None:
            return 0.0, 0.0
        known_s, bound_s = (one + self.fed_down_s for one in (self.fed_incumbent.delay_s, self.fed_incumbent.bound_s))
        both = self.fed_two_ways
        return (known_s, bound_s) if both is None else (both.delay_s, max(bound_s, both.bound_s))

    def _lower_s(self, i: int) -> float:
        """Bound of a pair's total delay (s)."""
        pair = self.pairs[i]
        step_s = self.bounds_s[i] + pair.down_s
        for j, known in self.two_ways.items():
            step_s = max(step_s, known.bound_s + pair.later_both_ways_s(self.pairs[j]))
        return pair.delay_s(step_s, self._fed_s()[1])

    def _upper_s(self, i: int) -> float:
        """Total delay of a pair's best known owners (s); too short where those for both ways are not known yet."""
        pair, both = self.pairs[i], self.two_ways.get(i)
        step_s = self.incumbents[i].delay_s + pair.down_s if both is None else both.delay_s
        return pair.delay_s(step_s, self._fed_s()[0])

    def _leading(self) -> int:
        """The pair with the best known owners."""
        return min(self.two_ways or self.incumbents, key=self._upper_s)

    def _lone_bounds_s(self) -> list[float]:
        ready_s_PK, bits_PK = np.stack([p.ready_s_K for p in self.pairs]), np.stack([p.bits_K for p in self.pairs])
        return np.maximum(np.max(ready_s_PK, axis=1), self.main.lone_bounds_s(ready_s_PK, bits_PK)).tolist()

    def _started(self, tables: BandTables, band_problem: BandProblem, owner_M: IntArray | None) -> Incumbent:
        """First incumbent of a band, from the better of given and greedy owners."""
        fresh = first_incumbent(tables, band_problem)
        if owner_M is None:
            return fresh
        return min(fresh, first_incumbent(tables, band_problem, owner_M), key=lambda s: s.delay_s)

    def _main_incumbent(self, i: int, owner_M: IntArray | None = None) -> Incumbent:
        """First incumbent of a pair in the main band."""
        if not np.any(self.main_problems[i].need_K > 0):
            ready_s = self.bounds_s[i]
            return Incumbent(np.full(self.problem.main.num_subchannels, -1), ready_s, ready_s)
        return self._started(self.main, self.main_problems[i], owner_M)

    def _first_pair(self) -> int:
        """Pair that is best with the owners that suit the most promising one."""
        guess = min(range(len(self.pairs)), key=self._lower_s)
        owner_M = self._main_incumbent(guess, self.warm.main.owner_M if self.warm else None).owner_M
        best = self._best_pair_on(owner_M, guess)
        self.incumbents[best] = self._main_incumbent(best, owner_M)
        return best

    def _best_pair_on(self, owner_M: IntArray, best: int) -> int:
        """Pair that is best on given owners of the main band; that given where none is better."""

        def main_s(i: int) -> float:
            sends = np.any(self.main_problems[i].need_K > 0)
            return owners_delay(self.main_problems[i], owner_M) if sends else self.bounds_s[i]

        best_main_s, fed_s = main_s(best), self._fed_s()[0]
        for i, pair in enumerate(self.pairs):
            limit_s = self.pairs[best].delay_s(best_main_s + self.pairs[best].down_s, fed_s)
            least_s = max(self.bounds_s[i], best_main_s + pair.later_s(self.pairs[best]))
            if pair.delay_s(least_s + pair.down_s, fed_s) >= limit_s:
                continue
            if pair.delay_s((found_s := main_s(i)) + pair.down_s, fed_s) < limit_s:
                best, best_main_s = i, found_s
        return best

    def _descend(self, clock: Clock) -> None:
        """Owners by local search, then the pair that suits them; part of the first plan where it takes milliseconds."""
        size = self.main.snr_per_w_KM.size
        kicks = 0 if self.warm else min(_FIRST_KICKS, _QUICK // size)
        clock = Clock() if size <= _QUICK else clock
        if self.fed_incumbent is not None:
            self.fed_incumbent = descend(self.fed_problem, self.fed_incumbent, clock, kicks)
        for _ in range(2):
            i, incumbent = self.best, self.incumbents[self.best]
            self.incumbents[i] = descend(self.main_problems[i], incumbent, clock, kicks)
            self.best = self._best_pair_on(self.incumbents[i].owner_M, i)
            if self.best == i or clock.expired:
                self.best = i
                break
            self.incumbents[self.best] = self._main_incumbent(self.best, self.incumbents[i].owner_M)
        self.best = min(self.incumbents, key=self._upper_s)

    def _solve_fed(self, effort: Effort, clock: Clock) -> None:
        weight = self.pairs[self.best].rounds * self.pairs[self.best].fed_bits
        if self.fed_incumbent is not None and weight > 0:
            gap_s = 0.5 * self.tolerance * self._upper_s(self.best) / weight
            self.fed_incumbent = solve(self.fed_problem, self.fed_incumbent, gap_s, effort, clock)

    def _solve_main(self, i: int, effort: Effort, clock: Clock, beat_s: float = np.inf) -> None:
        pair, incumbent = self.pairs[i], self.incumbents[i]
        allowed_s, (fed_s, fed_bound_s) = self.tolerance * self._upper_s(i), self._fed_s()
        left_s = allowed_s - pair.rounds * pair.fed_bits * (fed_s - fed_bound_s)
        # Packing and branching stop at multiples of the gap, so that a whole answer asks for half of it.
        gap_s = max(left_s if self.warm else 0.0, 0.5 * allowed_s) / (pair.rounds * pair.steps)
        if self.warm is None and i in self.two_ways:  # what both ways leave open the uplink alone does not close
            gap_s = max(gap_s, _OPEN_SHARE * (self.two_ways[i].delay_s - self.two_ways[i].bound_s))
        if incumbent.gap_s > 0:
            self.incumbents[i] = solve(self.main_problems[i], incumbent, gap_s, effort, clock, beat_s)
            self.bounds_s[i] = max(self.bounds_s[i], self.incumbents[i].bound_s)

    def _bound_others(self, clock: Clock) -> None:
        """Raise the other pairs' bounds by what is proved for the best one."""
        best, proved = self.pairs[self.best], self.incumbents[self.best]
        for i, other in enumerate(self.pairs):
            goal_s = other.step_s(self._upper_s(self.best), self._fed_s()[1]) - other.down_s
            if clock.expired:
                return
            if i == self.best or self.bounds_s[i] >= goal_s or not np.any(other.bits_K > 0):
                continue
            self.bounds_s[i] = max(self.bounds_s[i], self.bounds_s[self.best] + other.later_s(best))
            if self.bounds_s[i] < goal_s and proved.prices is not None:
                self.bounds_s[i] = bound_by_prices(self.main_problems[i], proved.prices, self.bounds_s[i], goal_s)

    def _open_pairs(self) -> list[int]:
        """Candidates that might still beat the best plan, most promising first."""
        upper_s = self._upper_s(self.best) * (1 - self.tolerance)
        open_pairs = [i for i in range(len(self.pairs)) if i not in (self.best, *self.two_ways)]
        return sorted((i for i in open_pairs if self._lower_s(i) < upper_s), key=self._lower_s)[: self._most_pairs]

    def _search_pair(self, i: int, clock: Clock) -> None:
        """Try to beat the best plan with another pair, or to prove that it cannot be beaten by it."""
        enough_s = self._upper_s(self.best) * (1 - self.tolerance)
        if self._lower_s(i) >= enough_s or (self.two_ways and self._lower_s(i) >= self._lower_s(self._leading())):
            return
        start_M = self.incumbents[self.best].owner_M
        self.incumbents[i] = descend(self.main_problems[i], self._main_incumbent(i, start_M), clock)
        beat_s = self.pairs[i].step_s(enough_s, self._fed_s()[1]) - self.pairs[i].down_s
        self._solve_main(i, replace(self.effort, searches=4, branches=self.effort.branches // 4), clock, beat_s)
        if not self.two_ways and self._upper_s(i) < self._upper_s(self.best):
            self.best = i
