"""Search over decisions in which clients may differ, with a bound that no plan beats.

A menu holds what every client may choose: all cuts at one rank, one common cut and rank, or cuts and ranks given from
outside. Promising menus are searched from the best common choice and from what the relaxation suggests: single clients
change their cut where the prices say that it pays, the powers follow exactly, then the subchannels are handed out anew;
the best is kept. Shape suffixes: K clients, M subchannels, C cuts.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from wavetune.allocation.band import Standing, Track, bound_by_prices, descend, solve, start, tighten
from wavetune.allocation.decision import Cell, Decision, Options
from wavetune.allocation.delay import downlink_rate_bit_per_s_KM, least_downlink_s, transfer_s
from wavetune.allocation.effort import Clock, Effort
from wavetune.allocation.plan import Plan
from wavetune.allocation.problem import IntArray
from wavetune.allocation.rate_costs import RateCosts, rate_costs
from wavetune.allocation.relaxation import Choices, Pick, bound_shared, bound_together
from wavetune.allocation.water_filling import Race, optimal_power
from wavetune.units import Array

_TOLERANCE = 1e-4
_ROUNDING = 1e-9
_MOST_MENUS = 12
_BOXES = 160
_FEW = 32


class MenuSearch:
    """State of a search: the best decision so far and, per menu, a delay that no plan from it beats."""

    def __init__(self, cell: Cell, menus: Sequence[Options], first: Decision, effort: Effort, clock: Clock) -> None:
        self.cell, self.menus, self.best, self.effort, self.clock = cell, menus, first, effort, clock
        self.problem = cell.problem
        self.lower_s = [0.0] * len(menus)
        self.picks: dict[int, tuple[Pick, ...]] = {}

    def run(self, others: Iterable[Decision]) -> None:
        """Improve the best decision and the bounds until nothing is left to do or the time is up."""
        for decision in others:
            self._offer(decision)
        if not self.clock.expired:
            self._polish(self.best)
            self._solve(replace(self.effort, searches=max(1, self.effort.searches // 4), branches=0))
        for i in [] if self.clock.expired else self._promising():
            if not self.clock.expired and self.lower_s[i] < self._enough_s:
                for seed in self._seeds(i):
                    self._polish(self._planted(i, seed))
        self._solve(self.effort)

    def plan(self) -> Plan:
        """The best decision as a plan, with the least bound over the menus."""
        plan = self.cell.plan_of(self.best)
        return replace(plan, lower_bound_s=min(min(self.lower_s) * (1 - _ROUNDING), plan.delay_s))

    @property
    def _enough_s(self) -> float:
        return self.best.delay_s * (1 - _TOLERANCE)

    def _offer(self, decision: Decision) -> None:
        if decision.delay_s < self.best.delay_s:
            self.best = decision

    def _decide(self, options: Options, like: Decision) -> Decision:
        return self.cell.decide(options, like.main_owner_M, like.fed_owner_M, like.share_K)

    def _promising(self) -> list[int]:
        """The menus to search, in the order of what their first seeds take on the owners of the best."""

        def delay_s(i: int) -> float:
            return min(self._decide(self.menus[i].of(seed.choice_K), self.best).delay_s for seed in self._seeds(i))

        rivals = [i for i, lower_s in enumerate(self.lower_s) if lower_s < self._enough_s]
        return sorted(rivals, key=delay_s)[:_MOST_MENUS]

    def _seeds(self, i: int) -> list[Pick]:
        """What to start from in a menu: the best decision's choices and the relaxation's; all where they are few."""
        menu, clients = self.menus[i], np.arange(self.problem.num_clients)
        least_K = np.argmax(menu.allowed_KC, axis=1)
        seeds = [Pick(menu.choice_of(self.best.options)), *self.picks.get(i, ())]
        if menu.num_cuts**menu.num_clients <= _FEW:
            every = itertools.product(range(menu.num_cuts), repeat=menu.num_clients)
            seeds += [Pick(np.array(choice)) for choice in every]
        return [s._replace(choice_K=np.where(menu.allowed_KC[clients, s.choice_K], s.choice_K, least_K)) for s in seeds]

    def _planted(self, i: int, seed: Pick) -> Decision:
        """Decision of a seed on the best's owners; where it has shares, on owners that suit these."""
        decision = self._decide(self.menus[i].of(seed.choice_K), self.best)
        if seed.share_K is None and np.isfinite(decision.delay_s):
            return decision
        share_K = decision.share_K if seed.share_K is None else seed.share_K
        return _better(self._hand_out(replace(decision, share_K=share_K, step_s=np.inf, delay_s=np.inf)), decision)

    def _polish(self, decision: Decision) -> None:
        """Shares, cuts and bands in turns, as long as it pays."""
        rank = decision.options.rank_K[0]
        menu = next((m for m in self.menus if m.num_cuts > 1 and m.rank_K[0] == rank), None)
        for _ in range(6):
            better = self.cell.balanced(decision)
            better = self._hand_out(better if menu is None else self._change_cuts(menu, better))
            paid = better.delay_s < decision.delay_s * (1 - 0.1 * _TOLERANCE)
            decision = better if better.delay_s < decision.delay_s else decision
            if not paid or self.clock.expired:
                break
        self._offer(decision)

    def _hand_out(self, decision: Decision) -> Decision:
        """Owners of both bands by local search without kicks; from greedy ones where the given leave no rate."""
        cell, options = self.cell, decision.options
        race = cell.main_race(options, decision.main_owner_M, decision.share_K)
        if np.any(race.need_K > 0):
            owner_M = descend(race, start(cell.main, race, decision.main_owner_M), self.clock).owner_M
            decision = _better(cell.decide(options, owner_M, decision.fed_owner_M, decision.share_K), decision)
        race = cell.fed_race(options)
        if np.any(race.need_K > 0):
            owner_M = descend(race, start(cell.fed, race, decision.fed_owner_M), self.clock).owner_M
            decision = _better(cell.decide(options, decision.main_owner_M, owner_M, decision.share_K), decision)
        return decision

    def _change_cuts(self, menu: Options, decision: Decision) -> Decision:
        """Change single clients' cuts, the most promising by the prices first, where the delay falls."""
        tries = max(30, min(400, 20_000_000 // self.cell.main.snr_per_w_KM.size))
        while np.isfinite(decision.delay_s) and not self.clock.expired:
            change_s_KC = predicted_change_s(self.cell, menu, decision)
            changed = decision
            for flat in np.argsort(change_s_KC, axis=None, kind="stable")[: menu.num_clients]:
                k, c = divmod(int(flat), menu.num_cuts)
                if tries == 0 or not change_s_KC[k, c] < 0:
                    break
                tries -= 1
                choice_K = menu.choice_of(decision.options)
                choice_K[k] = c
                options = menu.of(choice_K)
                if not self.cell.can_beat(options, decision):
                    continue
                changed = self.cell.balanced(self._decide(options, decision))
                if changed.delay_s < decision.delay_s * (1 - 1e-7):
                    break
            if not changed.delay_s < decision.delay_s * (1 - 1e-7):
                break
            decision = changed
        return decision

    def _solve(self, effort: Effort) -> None:
        """Solve both bands for the best decision, and bound every menu with the prices that this leaves."""
        cell, best = self.cell, self.best
        per_step = best.options.rounds * self.problem.local_steps
        race = cell.main_race(best.options, best.main_owner_M, best.share_K)
        main = self._stand(cell.main, race, best.main_owner_M, per_step, effort)
        fed_race = cell.fed_race(best.options)
        fed = self._stand(cell.fed, fed_race, best.fed_owner_M, best.options.rounds, effort)
        self._offer(cell.decide(best.options, main.owner_M, fed.owner_M, best.share_K))
        self._offer(cell.balanced(self.best))
        proof = _Proof(
            best.options,
            main,
            fed,
            self._costs(cell.main, race, main, [m.up_bits_KC for m in self.menus]),
            self._costs(cell.fed, fed_race, fed, [m.fed_bits_KC for m in self.menus]),
        )
        for i in range(len(self.menus)):
            self._bound(i, proof, fine=False)
        for _ in range(_MOST_MENUS):
            i = int(np.argmin(self.lower_s))
            before_s = self.lower_s[i]
            if before_s < self._enough_s:
                self._bound(i, proof, fine=True)
            if self.lower_s[i] <= before_s or self.clock.expired:
                break

    def _stand(self, track: Track, race: Race, owner_M: IntArray, weight: float, effort: Effort) -> Standing:
        """Standing of a race whose delay counts `weight` times, solved from given owners."""
        if not np.any(race.need_K > 0):
            ready_s = float(np.max(race.ready_K))
            return Standing(owner_M, ready_s, ready_s)
        gap_s = 0.5 * _TOLERANCE * self.best.delay_s / weight
        return solve(race, start(track, race, owner_M), gap_s, effort, self.clock)

    def _costs(self, track: Track, race: Race, standing: Standing, bits_KC: Sequence[Array]) -> RateCosts:
        """Costs of rates at the prices of a solved race, around the rates that its clients and other choices need."""
        if standing.prices is None and np.any(race.need_K > 0) and not self.clock.expired:
            goal_s = standing.delay_s
            standing = tighten(race, standing, goal_s, 1e-6 * goal_s, self.effort.iterations)
        air_s_K = np.maximum(standing.delay_s - race.ready_K, 1e-3 * standing.delay_s + 1e-300)
        need_K2 = np.stack([race.need_K, race.need_K], axis=1)
        for bits in bits_KC:
            need_KC = bits / track.band.subchannel_hz
            need_K2[:, 0] = np.minimum(need_K2[:, 0], np.min(np.where(need_KC > 0, need_KC, np.inf), axis=1))
            need_K2[:, 1] = np.maximum(need_K2[:, 1], np.max(need_KC, axis=1))
        low_K = np.where(need_K2[:, 0] > 0, need_K2[:, 0], np.maximum(need_K2[:, 1], 1e-300)) / air_s_K / 4.0
        span = 32.0 * float(np.max(need_K2[:, 1] / np.maximum(need_K2[:, 0], 1e-3 * need_K2[:, 1] + 1e-300)))
        num_rates = max(16, min(512, 2_000_000 // race.log_KM.size))
        return rate_costs(
            race, standing.prices, track.lone_rate_K, low_K, max(span, 32.0) ** (1 / num_rates), num_rates
        )

    def _bound(self, i: int, proof: _Proof, fine: bool) -> None:
        """Raise the bound of a menu by what is known of the best decision's races."""
        menu, problem, choices = self.menus[i], self.problem, self._choices(self.menus[i])
        rounds, steps = menu.rounds, problem.local_steps
        fed_s, fed_down_s = self._least_fed_s(menu, proof)
        step_s = self._least_step_s(menu, choices, proof)
        round_s = steps * step_s + fed_s
        beat_s = self.best.delay_s / rounds - fed_down_s
        if round_s >= beat_s or self.clock.expired:
            picks = ()
        elif problem.share_server:
            num_rates = min(4096, max(256, 2_000_000 // choices.need_KC.size)) if fine else 256
            most_s, precision = (beat_s - fed_s) / steps, 1e-5 if fine else 1e-3
            bound = bound_shared(choices, proof.main_costs, num_rates, step_s, most_s, precision)
            round_s, picks = max(round_s, steps * bound.least_s + fed_s), bound.picks
        elif menu.num_cuts > 1:
            boxes = _BOXES if fine else _BOXES // 8
            bound = bound_together(choices, proof.main_costs, proof.fed_costs, steps, fed_s, beat_s, boxes)
            round_s, picks = max(round_s, bound.least_s), bound.picks
        else:
            picks = ()
        self.picks[i] = picks or self.picks.get(i, ())
        self.lower_s[i] = max(self.lower_s[i], rounds * (min(round_s, beat_s) + fed_down_s) * (1 - _ROUNDING))

    def _least_step_s(self, menu: Options, choices: Choices, proof: _Proof) -> float:
        """Least seconds of a step if every client had the main band, and where they share it the server, to itself."""
        alone_s_KC = choices.need_KC / np.maximum(self.cell.main.lone_rate_K, 1e-300)[:, None]
        if self.problem.share_server:
            step_s_KC = choices.ready_s_KC + alone_s_KC + choices.work_s_KC + choices.back_s_KC
            return float(np.max(np.min(step_s_KC, axis=1)))
        up_s_KC = np.where(np.isfinite(choices.back_s_KC), choices.ready_s_KC + alone_s_KC, np.inf)
        up_s, solved = float(np.max(np.min(up_s_KC, axis=1))), proof.options
        if np.array_equal(menu.up_bits_KC, solved.up_bits_KC) and np.array_equal(menu.ready_s_KC, solved.ready_s_KC):
            up_s = max(up_s, proof.main.bound_s)
        back_s = max(choices.least_back_s, float(np.max(np.min(choices.back_s_KC, axis=1))))
        return up_s + float(np.sum(np.min(choices.work_s_KC, axis=1))) + back_s

    def _choices(self, menu: Options) -> Choices:
        """What the relaxation sees of a menu; of the way back, what a client alone in the band would need."""
        problem, back_s_KC, least_back_s = self.problem, menu.back_s_KC, 0.0
        down: tuple[Array, Array] | tuple[None, None] = (None, None)
        if problem.price_downlink and problem.share_server:
            down = menu.down_bits_KC, downlink_rate_bit_per_s_KM(problem.main)
        elif problem.price_downlink:
            alone_s_KC = transfer_s(menu.down_bits_KC, downlink_rate_bit_per_s_KM(problem.main).sum(axis=1)[:, None])
            least_bits_K, least_s_K = (_least(menu, x) for x in (menu.down_bits_KC, menu.back_s_KC))
            least_back_s = least_downlink_s(problem.main, least_bits_K, least_s_K)
            back_s_KC = back_s_KC + alone_s_KC
        back_s_KC = np.where(menu.allowed_KC, back_s_KC, np.inf)
        need_KC, fed_need_KC = (
            menu.up_bits_KC / problem.main.subchannel_hz,
            menu.fed_bits_KC / problem.fed.subchannel_hz,
        )
        return Choices(menu.ready_s_KC, back_s_KC, menu.work_s_KC, need_KC, fed_need_KC, least_back_s, *down)

    def _least_fed_s(self, menu: Options, proof: _Proof) -> tuple[float, float]:
        """Least seconds of the adapters' upload and download for any choice from a menu."""
        problem, bits_K, fed = self.problem, _least(menu, menu.fed_bits_KC), proof.fed
        down_s = least_downlink_s(problem.fed, bits_K, np.zeros(len(bits_K))) if problem.price_downlink else 0.0
        if not np.any(bits_K > 0):
            return 0.0, down_s
        solved_K = proof.options.fed_bits_KC[:, 0]
        scale = float(np.min(bits_K[solved_K > 0] / solved_K[solved_K > 0], initial=np.inf))
        race = self.cell.fed.race(np.zeros(len(bits_K)), bits_K)
        up_s = max(self.cell.fed.lone_bound_s(race), scale * fed.bound_s if np.isfinite(scale) else 0.0)
        if menu.num_cuts > 1 and fed.prices is not None:
            up_s = bound_by_prices(race, fed.prices, up_s, max(up_s, self.best.fed_s))
        return up_s, down_s


class _Proof(NamedTuple):
    """What is known of a decision's races: its options, standings, and costs of rates at the prices of both bands."""

    options: Options
    main: Standing
    fed: Standing
    main_costs: RateCosts
    fed_costs: RateCosts


def predicted_change_s(cell: Cell, menu: Options, decision: Decision) -> Array:
    """Change of a round's delay if one client took another cut, at the present prices of airtime, [K, C].

    For given owners the delay is convex in the clients' seconds, so that the true change is no less.
    """
    own = decision.options
    start_s_KC, back_s_KC = menu.ready_s_KC - own.ready_s_KC, menu.back_s_KC - own.back_s_KC
    work_s_KC = menu.work_s_KC - own.work_s_KC
    race = cell.main_race(own, decision.main_owner_M, decision.share_K)
    weight_K, air_s_K = _delay_per_second(race, decision.main_owner_M)
    start_s_KC = start_s_KC + air_s_K[:, None] * _more(menu.up_bits_KC, own.up_bits_KC)
    if decision.share_K is None:
        back_s_K = cell.back_s_K(own, decision.main_owner_M)
        last_s_KC = np.maximum(_largest_of_others(back_s_K)[:, None], back_s_K[:, None] + back_s_KC)
        step_s_KC = weight_K[:, None] * start_s_KC + work_s_KC + last_s_KC - np.max(back_s_K)
    else:
        share_K1, work_s_K1 = np.maximum(decision.share_K, 1e-300)[:, None], np.maximum(own.work_s_KC, 1e-300)
        weight_K1 = np.where(own.work_s_KC > 0, share_K1**2 / work_s_K1, 0.0)
        weight_K1 = weight_K1 / max(float(np.sum(weight_K1)), 1e-300)
        step_s_KC = weight_K1 * (start_s_KC + back_s_KC + work_s_KC / share_K1)
    fed_weight_K, fed_air_s_K = _delay_per_second(cell.fed_race(own), decision.fed_owner_M)
    fed_s_KC = (fed_weight_K * fed_air_s_K)[:, None] * _more(menu.fed_bits_KC, own.fed_bits_KC)
    change_s_KC = cell.problem.local_steps * step_s_KC + fed_s_KC
    return np.where(menu.allowed_KC & (menu.cut_KC != own.cut_KC), change_s_KC, np.inf)


def _delay_per_second(race: Race, owner_M: IntArray) -> tuple[Array, Array]:
    """What the race's end moves per second that a client starts later, and each client's airtime (s)."""
    delay_s, _, level_K = optimal_power(race, owner_M)
    sends = race.need_K > 0
    air_s_K = np.where(sends, np.maximum(delay_s - race.ready_K, 1e-300), 0.0)
    slope_K = np.divide(level_K * race.need_K, air_s_K**2, out=np.zeros(len(air_s_K)), where=sends & (air_s_K > 1e-150))
    total = float(np.sum(slope_K))
    if not np.isfinite(delay_s) or not 0 < total < np.inf:
        return np.zeros(len(air_s_K)), np.where(np.isfinite(air_s_K), air_s_K, 0.0)
    return slope_K / total, air_s_K


def _more(bits_KC: Array, own_K1: Array) -> Array:
    """Relative change of what is sent."""
    return np.minimum(bits_KC / np.maximum(own_K1, 1e-9), 1e6) - 1.0


def _largest_of_others(values_K: Array) -> Array:
    """For each client the largest value of another one."""
    if len(values_K) == 1:
        return np.full(1, -np.inf)
    second, first = (float(x) for x in np.sort(values_K)[-2:])
    return np.where(np.equal(values_K, first), second, first)


def _least(menu: Options, value_KC: Array) -> Array:
    return np.min(np.where(menu.allowed_KC, value_KC, np.inf), axis=1)


def _better(one: Decision, other: Decision) -> Decision:
    return one if one.delay_s < other.delay_s else other
