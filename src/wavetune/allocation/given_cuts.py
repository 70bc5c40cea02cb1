"""Plan with given cuts and ranks, or the best of several: owners and powers with them, and a certified lower bound.

For given cuts and ranks, as one cut and one rank for all clients, the two bands do not couple. The fed band is one
problem, solved once and scaled to what each pair of cut and rank sends. The main band is a problem per pair; what is
proved for one pair bounds the others, so that nearly all are ruled out without a search of their own. The rest is
searched, best bound first.
Shape suffixes: K clients, M subchannels, P settings.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from wavetune.allocation.band import (
    BandTables,
    Incumbent,
    bound_by_prices,
    descend,
    first_incumbent,
    first_owners_of,
    solve,
)
from wavetune.allocation.both_ways import Asked, BothWays, TwoWays
from wavetune.allocation.decision import Evaluator, Options, given_options
from wavetune.allocation.delay import least_downlinks_s
from wavetune.allocation.effort import Clock, Effort, effort_of
from wavetune.allocation.feasibility import check_feasible
from wavetune.allocation.greedy import greedy_owners
from wavetune.allocation.ladder import owners_delay
from wavetune.allocation.owner_program import is_tiny
from wavetune.allocation.plan import Plan, infeasible
from wavetune.allocation.power import with_best_power
from wavetune.allocation.problem import IntArray, Problem
from wavetune.allocation.water_filling import BandProblem
from wavetune.units import Array

_TOLERANCE, _WARM_TOLERANCE, _TWO_WAY_TOLERANCE = 1e-4, 1e-3, 1e-3
_ROUNDING = 1e-9
_QUICK, _FIRST_KICKS, _FIRST_CLOSE = 300_000, 40, 0.01  # size of a band that a local search takes milliseconds for
_WIDE = 5e-3  # of a delay; a gap that integer programs are asked to close
_LITTLE = 0.01  # of a total delay, which a first plan leaves open in the adapters' band
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
    return search_given(problem, feasible.pairs, time_limit_s, warm_start, closes).best_plan()


def search_given(
    problem: Problem,
    pairs: Sequence[tuple[IntArray | int, IntArray | int]],
    time_limit_s: float | None = None,
    warm_start: Plan | None = None,
    closes: bool = True,
) -> GivenCutsSearch:
    """The search at its end, with what it proved; over at least one pair of cuts and ranks, each with a plan.

    Cuts and ranks are the same for all clients or, of a single pair, one per client.
    """
    clock = Clock(np.inf if time_limit_s is None else time.monotonic() + time_limit_s)
    search = GivenCutsSearch(problem, pairs, warm_start, closes)
    search.run(clock)
    return search


@dataclass(frozen=True, eq=False)
class Setting:
    """Given cuts and ranks.

    Their total delay is rounds * (steps * (step + server) + fed bits * fed), where `step` is both `ways` of a step, up
    to when the last activations arrive and from the server's answer to the end of the last backward pass, and `fed`
    both ways of the adapters of which the largest client's have a bit. The way back of a step takes `down_s` at least.
    """

    options: Options
    ways: BothWays
    steps: int
    server_s: float
    down_s: float
    fed_bits: float

    @property
    def uplink(self) -> BandProblem:
        """The problem of the activations."""
        return self.ways.uplink

    @property
    def steps_to_target(self) -> float:
        """Local steps to the target loss."""
        return self.options.rounds * self.steps

    @property
    def sends(self) -> bool:
        """Whether anybody has activations to send."""
        return bool(np.any(self.uplink.need_K > 0))

    def delay_s(self, step_s: float, fed_s_per_bit: float) -> float:
        """Total delay (s)."""
        return self.options.rounds * (self.steps * (step_s + self.server_s) + self.fed_bits * fed_s_per_bit)

    def step_s(self, delay_s: float, fed_s_per_bit: float) -> float:
        """What both ways of a step may take for a total delay (s)."""
        return (delay_s / self.options.rounds - self.fed_bits * fed_s_per_bit) / self.steps - self.server_s


def settings_of(evaluator: Evaluator, pairs: Sequence[tuple[IntArray | int, IntArray | int]]) -> list[Setting]:
    """Settings of cuts and ranks, per client or the same for all."""
    problem, given = evaluator.problem, given_options(evaluator.problem, pairs)
    back_s_PK = np.stack([one.back_s_KC[:, 0] for one in given])
    down_s_P = np.max(back_s_PK, axis=1)
    if problem.price_downlink:
        down_bits_PK = np.stack([one.down_bits_KC[:, 0] for one in given])
        down_s_P = least_downlinks_s(problem.main, down_bits_PK, back_s_PK)
    return [
        Setting(
            options=one,
            ways=evaluator.ways(one),
            steps=problem.local_steps,
            server_s=float(np.sum(one.work_s_KC)),
            down_s=down_s,
            fed_bits=float(np.max(one.fed_bits_KC)),
        )
        for one, down_s in zip(given, down_s_P.tolist(), strict=True)
    ]


class GivenCutsSearch:
    """State of a search: what is known of the fed band and, per pair, of the main band.

    Incumbents are of the uplink alone. Where the way back takes time, `two_ways` are of both; else it takes `down_s` of
    a pair and nothing of the adapters.
    """

    def __init__(
        self,
        problem: Problem,
        pairs: Sequence[tuple[IntArray | int, IntArray | int]],
        warm_start: Plan | None,
        closes: bool = True,
    ) -> None:
        self.problem, self.closes, self.evaluator = problem, closes, Evaluator(problem)
        self.warm = warm_start if warm_start is not None and warm_start.status == "ok" else None
        self.tolerance = _TOLERANCE if self.warm is None else _WARM_TOLERANCE
        self.main, self.fed = self.evaluator.main, self.evaluator.fed
        self.settings = settings_of(self.evaluator, pairs)
        self._later_s_by_pair: dict[int, tuple[list[float], list[float]]] = {}
        self.bounds_s = self._lone_bounds_s()
        largest = max(self.settings, key=lambda one: one.fed_bits)
        share_K = largest.options.fed_bits_KC[:, 0] / (largest.fed_bits or 1.0)  # of the largest client's adapters
        none_K = np.zeros(problem.num_clients)
        self.fed_problem = self.fed.problem(none_K, share_K)
        self.fed_ways = BothWays(problem.fed, self.fed_problem, share_K * problem.costs.download_share, none_K)
        self.fed_down_s = self.fed_ways.least_down_s if problem.price_downlink else 0.0
        self.fed_incumbent = None
        if largest.fed_bits > 0:
            self.fed_incumbent = self._started(self.fed, self.fed_problem, self.warm and self.warm.fed.owner_M)
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
        if self.settings[i].sends:
            self.two_ways[i] = self.settings[i].ways.improve(
                self._starts(i, 0), self.bounds_s[i], 0, clock, _FIRST_CLOSE
            )
        if self.fed_incumbent is not None and self.settings[i].fed_bits > 0:
            up_s = self.fed_incumbent.bound_s
            self.fed_two_ways = self.fed_ways.improve(self._starts(i, 1), up_s, 0, clock, _FIRST_CLOSE)

    def _starts(self, i: int, band: int) -> list[IntArray]:
        """Owners to start from for both ways of a band: known ones, the last round's, or fresh ones."""
        incumbent = self.fed_incumbent if band else self.incumbents[i]
        known = self.fed_two_ways if band else self.two_ways.get(i)
        assert incumbent is not None
        if self.warm is None:
            owners = [incumbent.owner_M, *(owners[band] for owners in self._greedy_owners)]
            if known is not None:
                return [known.owner_M, *owners]
            ways = self.fed_ways if band else self.settings[i].ways
            matched_M = ways.matched_owners(incumbent.bound_s, min(map(ways.delay_s, owners)))
            return owners if matched_M is None else [*owners, matched_M]
        if known is not None:
            return [known.owner_M]
        warm_M = (self.warm.fed if band else self.warm.main).owner_M  # none of who sat out of that plan
        senders = np.flatnonzero((self.fed_problem if band else self.settings[i].uplink).need_K > 0)
        serves = warm_M.shape == incumbent.owner_M.shape and bool(np.isin(senders, warm_M).all())
        return [warm_M if serves else incumbent.owner_M]

    @cached_property
    def _greedy_owners(self) -> list[tuple[IntArray, IntArray]]:
        """Owners of both bands by the greedy methods, for the pair that is best of the uplink alone."""
        options = self.settings[self.best].options
        return [greedy_owners(self.problem, options.cut_KC[:, 0], options.rank_K, whole) for whole in (False, True)]

    def _serve_both_ways(self, clock: Clock) -> None:
        """Owners of both bands that suit the way back too, where it takes time, and a bound of both ways together."""
        if not self.problem.price_downlink or clock.expired:
            return
        first, pair = self.best, self.settings[self.best]
        if self.fed_two_ways is not None and self.fed_incumbent is not None:
            up_s, starts, kicks = self.fed_incumbent.bound_s, self._starts(first, 1), self.effort.kicks // 8
            known = self.fed_two_ways = self.fed_ways.improve(starts, up_s, kicks, clock)
            gap_s = 0.5 * _TWO_WAY_TOLERANCE * self._upper_s(first) / (pair.options.rounds * pair.fed_bits)
            asked = Asked(self.fed_incumbent.prices, up_s, gap_s, np.inf, self.effort, clock)
            self.fed_two_ways = self._solve_ways(self.fed_ways, known, asked)
        self._serve_pair(first, self._starts(first, 0), clock)
        for i in sorted(range(len(self.settings)), key=self._lower_s)[: self._most_pairs if self.two_ways else 0]:
            if i != first and self._lower_s(i) < self._upper_s(self._leading()) * (1 - _TWO_WAY_TOLERANCE):
                self._serve_pair(i, [self.two_ways[self._leading()].owner_M], clock)

    def _serve_pair(self, i: int, starts: list[IntArray], clock: Clock) -> None:
        """The best owners for both ways of a pair's steps, and how soon they can end, or that they cannot be better."""
        pair, ways, beat_s = self.settings[i], self.settings[i].ways, np.inf
        if not pair.sends:
            return
        known = ways.improve(starts, self.bounds_s[i], self.effort.kicks // 8, clock)
        if self.two_ways.keys() - {i}:
            least_s, (fed_s, fed_bound_s) = self._upper_s(self._leading()), self._fed_s()
            if pair.delay_s(known.delay_s, fed_s) >= least_s and self._lower_s(i) >= self._lower_s(self._leading()):
                self.two_ways[i] = known  # not the best, nor its bound the least
                return
            beat_s = pair.step_s(least_s * (1 - _TWO_WAY_TOLERANCE), fed_bound_s)
        gap_s = (
            0.5
            * _TWO_WAY_TOLERANCE
            * pair.delay_s(known.delay_s, self._fed_s()[0])
            / (pair.options.rounds * pair.steps)
        )
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
        lower_s = min(self._lower_s(i) for i in range(len(self.settings)))
        return replace(best, lower_bound_s=min(lower_s * (1 - _ROUNDING), best.delay_s))

    def _plan_of(self, i: int, owner_M: IntArray) -> Plan:
        fed_owner_M = np.full(self.problem.fed.num_subchannels, -1)
        if self.fed_incumbent is not None and self.settings[i].fed_bits > 0:
            fed_owner_M = (self.fed_two_ways or self.fed_incumbent).owner_M
        options = self.settings[i].options
        return with_best_power(self.problem, options.cut_KC[:, 0], options.rank_K, owner_M, fed_owner_M)

    def _fed_s(self) -> tuple[float, float]:
        """Best known and least possible delay of a bit of adapters (s)."""
        if self.fed_incumbent is None:
            return 0.0, 0.0
        known_s, bound_s = (one + self.fed_down_s for one in (self.fed_incumbent.delay_s, self.fed_incumbent.bound_s))
        both = self.fed_two_ways
        return (known_s, bound_s) if both is None else (both.delay_s, max(bound_s, both.bound_s))

    def _lower_s(self, i: int) -> float:
        """Bound of a pair's total delay (s)."""
        pair = self.settings[i]
        step_s = self.bounds_s[i] + pair.down_s
        for j, known in self.two_ways.items():
            step_s = max(step_s, known.bound_s + self._later_s(j)[1][i])
        return pair.delay_s(step_s, self._fed_s()[1])

    def _upper_s(self, i: int) -> float:
        """Total delay of a pair's best known owners (s); too short where those for both ways are not known yet."""
        pair, both = self.settings[i], self.two_ways.get(i)
        step_s = self.incumbents[i].delay_s + pair.down_s if both is None else both.delay_s
        return pair.delay_s(step_s, self._fed_s()[0])

    def _leading(self) -> int:
        """The pair with the best known owners."""
        return min(self.two_ways or self.incumbents, key=self._upper_s)

    def _later_s(self, j: int) -> tuple[list[float], list[float]]:
        """How much later than pair j's every pair's last activations arrive at least, and both ways of its steps end,
        for any owners and powers (s).

        Whoever sends no less and is ready no earlier than s later is done at least s later; with both ways, whoever
        receives no less either.
        """
        if j not in self._later_s_by_pair:
            need_PK, ready_s_PK, bits_PK, after_s_PK = self._amounts
            up_s_P = np.min(ready_s_PK - ready_s_PK[j], axis=1)
            up_s_P[~np.all(need_PK >= need_PK[j], axis=1)] = -np.inf
            both_s_P = up_s_P + np.min(after_s_PK - after_s_PK[j], axis=1)
            both_s_P[~np.all(bits_PK >= bits_PK[j], axis=1)] = -np.inf
            self._later_s_by_pair[j] = up_s_P.tolist(), both_s_P.tolist()
        return self._later_s_by_pair[j]

    @cached_property
    def _amounts(self) -> tuple[Array, Array, Array, Array]:
        """[P, K]: what clients send in a step, from when on (s), bits that they receive, and what follows these (s)."""
        given = [
            (w.uplink.need_K, w.uplink.ready_K, w.down_bits_K, w.after_s_K) for w in (s.ways for s in self.settings)
        ]
        need_PK, ready_s_PK, bits_PK, after_s_PK = map(np.stack, zip(*given, strict=True))
        return need_PK, ready_s_PK, bits_PK, after_s_PK

    def _lone_bounds_s(self) -> list[float]:
        need_PK, ready_s_PK, *_ = self._amounts
        return np.maximum(np.max(ready_s_PK, axis=1), self.main.lone_bounds_s(ready_s_PK, need_PK)).tolist()

    def _started(self, tables: BandTables, band_problem: BandProblem, owner_M: IntArray | None) -> Incumbent:
        """First incumbent of a band, from the better of given and greedy owners."""
        fresh = first_incumbent(tables, band_problem)
        if owner_M is None:
            return fresh
        return min(fresh, first_incumbent(tables, band_problem, owner_M), key=lambda s: s.delay_s)

    def _main_incumbent(self, i: int, owner_M: IntArray | None = None) -> Incumbent:
        """First incumbent of a pair in the main band."""
        if not self.settings[i].sends:
            ready_s = self.bounds_s[i]
            return Incumbent(np.full(self.problem.main.num_subchannels, -1), ready_s, ready_s)
        return self._started(self.main, self.settings[i].uplink, owner_M)

    def _first_pair(self) -> int:
        """Pair that is best with the owners that suit the most promising one."""
        guess = min(range(len(self.settings)), key=self._lower_s)
        owner_M = self._main_incumbent(guess, self.warm.main.owner_M if self.warm else None).owner_M
        best = self._best_pair_on(owner_M, guess)
        self.incumbents[best] = self._main_incumbent(best, owner_M)
        return best

    def _best_pair_on(self, owner_M: IntArray, best: int) -> int:
        """Pair that is best on given owners of the main band; that given where none is better."""

        def main_s(i: int) -> float:
            one = self.settings[i]
            return owners_delay(one.uplink, owner_M) if one.sends else self.bounds_s[i]

        best_main_s, fed_s = main_s(best), self._fed_s()[0]
        for i, pair in enumerate(self.settings):
            limit_s = self.settings[best].delay_s(best_main_s + self.settings[best].down_s, fed_s)
            least_s = max(self.bounds_s[i], best_main_s + self._later_s(best)[0][i])
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
            pair = self.settings[self.best]
            little_s = _LITTLE * self._upper_s(self.best) / (pair.options.rounds * pair.fed_bits or np.inf)
            self.fed_incumbent = first_owners_of(self.fed, self.fed_problem, self.fed_incumbent, clock, kicks, little_s)
        for _ in range(2):
            i, incumbent = self.best, self.incumbents[self.best]
            self.incumbents[i] = first_owners_of(self.main, self.settings[i].uplink, incumbent, clock, kicks)
            self.best = self._best_pair_on(self.incumbents[i].owner_M, i)
            if self.best == i or clock.expired:
                self.best = i
                break
            self.incumbents[self.best] = self._main_incumbent(self.best, self.incumbents[i].owner_M)
        self.best = min(self.incumbents, key=self._upper_s)

    def _solve_fed(self, effort: Effort, clock: Clock) -> None:
        weight = self.settings[self.best].options.rounds * self.settings[self.best].fed_bits
        if self.fed_incumbent is not None and weight > 0:
            gap_s = 0.5 * self.tolerance * self._upper_s(self.best) / weight
            self.fed_incumbent = solve(self.fed_problem, self.fed_incumbent, gap_s, effort, clock)

    def _solve_main(self, i: int, effort: Effort, clock: Clock, beat_s: float = np.inf) -> None:
        pair, incumbent = self.settings[i], self.incumbents[i]
        allowed_s, (fed_s, fed_bound_s) = self.tolerance * self._upper_s(i), self._fed_s()
        left_s = allowed_s - pair.options.rounds * pair.fed_bits * (fed_s - fed_bound_s)
        # Packing and branching stop at multiples of the gap, so that a whole answer asks for half of it.
        gap_s = max(left_s if self.warm else 0.0, 0.5 * allowed_s) / pair.steps_to_target
        if self.warm is None and i in self.two_ways:  # what both ways leave open the uplink alone does not close
            gap_s = max(gap_s, _OPEN_SHARE * (self.two_ways[i].delay_s - self.two_ways[i].bound_s))
        if incumbent.gap_s > 0:
            self.incumbents[i] = solve(self.settings[i].uplink, incumbent, gap_s, effort, clock, beat_s)
            self.bounds_s[i] = max(self.bounds_s[i], self.incumbents[i].bound_s)

    def _bound_others(self, clock: Clock) -> None:
        """Raise the other pairs' bounds by what is proved for the best one."""
        proved, later_s = self.incumbents[self.best], self._later_s(self.best)[0]
        for i, other in enumerate(self.settings):
            goal_s = other.step_s(self._upper_s(self.best), self._fed_s()[1]) - other.down_s
            if clock.expired:
                return
            if i == self.best or self.bounds_s[i] >= goal_s or not other.sends:
                continue
            self.bounds_s[i] = max(self.bounds_s[i], self.bounds_s[self.best] + later_s[i])
            if self.bounds_s[i] < goal_s and proved.prices is not None:
                self.bounds_s[i] = bound_by_prices(self.settings[i].uplink, proved.prices, self.bounds_s[i], goal_s)

    def _open_pairs(self) -> list[int]:
        """Candidates that might still beat the best plan, most promising first."""
        upper_s = self._upper_s(self.best) * (1 - self.tolerance)
        open_pairs = [i for i in range(len(self.settings)) if i not in (self.best, *self.two_ways)]
        return sorted((i for i in open_pairs if self._lower_s(i) < upper_s), key=self._lower_s)[: self._most_pairs]

    def _search_pair(self, i: int, clock: Clock) -> None:
        """Try to beat the best plan with another pair, or to prove that it cannot be beaten by it."""
        enough_s = self._upper_s(self.best) * (1 - self.tolerance)
        if self._lower_s(i) >= enough_s or (self.two_ways and self._lower_s(i) >= self._lower_s(self._leading())):
            return
        start_M = self.incumbents[self.best].owner_M
        self.incumbents[i] = descend(self.settings[i].uplink, self._main_incumbent(i, start_M), clock)
        beat_s = self.settings[i].step_s(enough_s, self._fed_s()[1]) - self.settings[i].down_s
        self._solve_main(i, replace(self.effort, searches=4, branches=self.effort.branches // 4), clock, beat_s)
        if not self.two_ways and self._upper_s(i) < self._upper_s(self.best):
            self.best = i
