"""Search over decisions in which clients may differ, with a bound that no plan beats.

An option set holds what every client may choose: all cuts at one rank, one common cut and rank, or cuts and ranks given
from outside. Promising sets are searched from the best common choice and from what the relaxation suggests: single
clients change their cut where the prices say that it pays, the powers follow exactly, then the subchannels are assigned
anew; the best is kept. Shape suffixes: K clients, M subchannels, C cuts.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from wavetune.allocation.band import (
    BandTables,
    Incumbent,
    bound_by_prices,
    descend,
    first_incumbent,
    raise_lower_bound,
    solve,
)
from wavetune.allocation.both_ways import Asked, BothWays, TwoWays
from wavetune.allocation.counting import Strongest, least_shared_s
from wavetune.allocation.cut_matching import CutMatching
from wavetune.allocation.cut_packing import CutPacking, Found
from wavetune.allocation.decision import Decision, Evaluator, Options
from wavetune.allocation.delay import downlink_rate_bit_per_s_KM, least_downlink_s, transfer_s
from wavetune.allocation.effort import Clock, Effort
from wavetune.allocation.owner_program import is_tiny
from wavetune.allocation.plan import Plan
from wavetune.allocation.prices import Prices
from wavetune.allocation.problem import IntArray
from wavetune.allocation.rate_costs import RateCosts, rate_costs
from wavetune.allocation.relaxation import Choices, Pick, bound_shared, bound_together
from wavetune.allocation.shared_in_time import suited_choices, suited_prices
from wavetune.allocation.water_filling import BandProblem, optimal_power
from wavetune.units import Array

_TOLERANCE = 1e-4
_ROUNDING = 1e-9
_MOST_OPTION_SETS = 12
_BOXES = 160
_PACKED, _PACKING_PROGRAMS = 1000, 1200.0  # size of bands whose cuts are packed; linear programs at size 1
_PACKED_UPLINK, _OPEN_UPLINK = 200, 0.005  # the same of the uplink alone, where less is open than this anyway
_PACKED_SHARES = 3000  # the same of the uplink with shares of the server
# pairs of a client and a subchannel whose cuts are matched; boxes at size 1, at most (without and with
# spare ones), and as many fewer with spare ones
_MATCHED, _MATCHED_BOXES, _MOST_BOXES, _SPARE_TIMES = 2000, 1e6, (1000, 150), 10
_CROWDED = 1.75  # subchannels of the narrower band a client up to which they are matched
_PACKED_TOLERANCE, _NEAR = 1e-3, 1.03  # of the bound's goal; how near a suggestion is worth a search
_FEW = 32
_FEW_HALVINGS, _WIDE = 10, 5e-3  # of a single choice of cuts at first; the gap that integer programs are asked to close
_MOST_THOROUGH = 8  # choices of cuts that are closed by linear and integer programs
_SUITED = 3  # choices that suit bands shared in time which are looked around
_CHANGES, _STALE, _STALE_CLIENT = 200, 80, 8  # of cuts at random: so many, as long as one of so many (a client) pays
_FIRST_CHANGES = 10  # of these for the first plan
_MOST_CHANGED, _NEAR_CUTS, _SAME_RANK = 3, 3, 0.75  # clients, cuts of low cost, and how often the rank stays
_SOON = 20_000  # pairs of client and subchannel for which a turn takes a tenth of a second
_LONGEST_S = 1e200  # of what is predicted of a client; longer ones are as good as endless


class DecisionSearch:
    """State of a search: the best decision so far and, per option set, a delay that no plan from it beats."""

    def __init__(
        self, evaluator: Evaluator, option_sets: Sequence[Options], first: Decision, effort: Effort, clock: Clock
    ) -> None:
        self.evaluator, self.option_sets, self.best, self.effort, self.clock = (
            evaluator,
            option_sets,
            first,
            effort,
            clock,
        )
        self.problem = evaluator.problem
        self.lower_s = [0.0] * len(option_sets)
        self.picks: dict[int, tuple[Pick, ...]] = {}
        self.looked_around: set[tuple[int, bytes]] = set()  # suggested cuts with their option set
        self.two_ways: tuple[TwoWays, TwoWays] | None = None  # of the least that any option asks, in both bands

    def run(self, others: Iterable[Decision], more: Callable[[], list[Decision]] = list) -> None:
        """Improve the best decision and the bounds until nothing is left to do or the time is up.

        The first plan starts from the best of all `others`; `more` is asked for others after it.
        """
        starts = [self.best, *others]
        for decision in starts:
            self._keep_better(decision)
        soon = self.evaluator.main.log_KM.size <= _SOON
        if soon:  # one turn belongs to the first plan
            self._improve(self.best, 1, Clock())
        if soon or not self.clock.expired:
            self._improve_suited()
        if soon and self.effort.programs > 0:
            if self.problem.share_server:
                self._improve(self.best, 3, Clock())
            self._change_at_random(0, min(_FIRST_CHANGES, _SOON // (2 * self._size)), Clock())
        for decision in [*starts, *more()]:
            if not self.clock.expired:
                self._improve(decision, 6, self.clock)
        if not self.clock.expired:
            self._solve(replace(self.effort, searches=max(1, self.effort.searches // 4), branches=0))
        for i in [] if self.clock.expired else self._promising():
            if not self.clock.expired and self.lower_s[i] < self._enough_s:
                for start in self._starts(i):
                    self._improve(self._start_decision(i, start, self.clock), 6, self.clock)
        self._change_at_random(1, min(_CHANGES, self.effort.programs), self.clock)
        self._solve(self.effort)

    def _improve_suited(self) -> None:
        """Look around the cuts that would suit bands shared in time the best."""
        suited = [
            (delay_s, i, choice_K)
            for i, one in enumerate(self.option_sets) if one.num_cuts > 1
            for delay_s, choice_K in suited_choices(self.evaluator, one)
        ]  # fmt: skip
        for _, i, choice_K in sorted(suited, key=lambda one: one[:2])[:_SUITED]:
            decision = self._start_decision(i, Pick(choice_K), Clock())
            self._improve(self._assign_subchannels(decision, Clock()), 1, Clock())

    def _change_at_random(self, seed: int, most: int, clock: Clock) -> None:
        """Look around the best decision with a few clients' cuts changed at random, `most` times, as long as that pays.

        Half of the changes are to cuts that prices say to cost little. Where the server is shared or the way back takes
        time, a look takes several times as long, and what packing suggests is better.
        """
        problem, g, stale = self.problem, np.random.default_rng(seed), 0
        pays = self.option_sets[0].num_cuts > 1 and not problem.share_server and not problem.price_downlink
        for _ in range(most if pays else 0):
            open_sets = [one for one, s in zip(self.option_sets, self.lower_s, strict=True) if s < self._enough_s]
            if not open_sets or stale == min(_STALE, _STALE_CLIENT * problem.num_clients) or clock.expired:
                break
            best, stale = self.best, stale + 1
            same = [one for one in open_sets if one.rank_K[0] == best.options.rank_K[0]]
            among = same if same and g.random() < _SAME_RANK else open_sets
            one = among[g.integers(len(among))]
            choice_K, near_KC = one.choice_of(best.options), np.argsort(predict_change_s(self.evaluator, one, best))
            for k in g.permutation(one.num_clients)[: g.integers(1, _MOST_CHANGED + 1)]:
                near_C = near_KC[k, one.allowed_KC[k, near_KC[k]]]
                choice_K[k] = g.choice(near_C[:_NEAR_CUTS] if g.random() < 0.5 else near_C)
            self._improve(self._assign_subchannels(self._decide(one.of(choice_K), best), clock), 3, clock)
            if self.best.delay_s < best.delay_s * (1 - 0.1 * _TOLERANCE):
                stale = 0

    def plan(self) -> Plan:
        """The best decision as a plan, with the least bound over the option sets."""
        plan = self.evaluator.plan_of(self.best)
        return replace(plan, lower_bound_s=min(self.lower_bound_s, plan.delay_s))

    @property
    def lower_bound_s(self) -> float:
        """No plan of any option set is faster (s)."""
        return min(self.lower_s) * (1 - _ROUNDING)

    @property
    def _enough_s(self) -> float:
        return self.best.delay_s * (1 - _TOLERANCE)

    def _keep_better(self, decision: Decision) -> None:
        if decision.delay_s < self.best.delay_s:
            self.best = decision

    def _decide(self, options: Options, like: Decision) -> Decision:
        return self.evaluator.decide(options, like.main_owner_M, like.fed_owner_M, like.share_K)

    def _promising(self) -> list[int]:
        """The option sets to search, in the order of what their first starts take on the owners of the best."""

        def delay_s(i: int) -> float:
            return min(
                self._decide(self.option_sets[i].of(start.choice_K), self.best).delay_s for start in self._starts(i)
            )

        open_sets = [i for i, lower_s in enumerate(self.lower_s) if lower_s < self._enough_s]
        return sorted(open_sets, key=delay_s)[:_MOST_OPTION_SETS]

    def _starts(self, i: int) -> list[Pick]:
        """Choices to start from in an option set: the best decision's and the relaxation's; all where they are few."""
        option_set, clients = self.option_sets[i], np.arange(self.problem.num_clients)
        least_K = np.argmax(option_set.allowed_KC, axis=1)
        starts = [Pick(option_set.choice_of(self.best.options)), *self.picks.get(i, ())]
        if option_set.num_cuts**option_set.num_clients <= _FEW:
            every = itertools.product(range(option_set.num_cuts), repeat=option_set.num_clients)
            starts += [Pick(np.array(choice)) for choice in every]
        return [
            s._replace(choice_K=np.where(option_set.allowed_KC[clients, s.choice_K], s.choice_K, least_K))
            for s in starts
        ]

    def _start_decision(self, i: int, start: Pick, clock: Clock) -> Decision:
        """Decision of a start on the best's owners; where it has shares, on owners that suit these."""
        decision = self._decide(self.option_sets[i].of(start.choice_K), self.best)
        if start.share_K is None and np.isfinite(decision.delay_s):
            return decision
        share_K = decision.share_K if start.share_K is None else start.share_K
        return _better(
            self._assign_subchannels(replace(decision, share_K=share_K, step_s=np.inf, delay_s=np.inf), clock), decision
        )

    def _improve(self, decision: Decision, turns: int, clock: Clock) -> None:
        """Shares, cuts and bands in turns, as long as it pays."""
        rank = decision.options.rank_K[0]
        option_set = next((m for m in self.option_sets if m.num_cuts > 1 and m.rank_K[0] == rank), None)
        for _ in range(turns):
            better = self.evaluator.balance_shares(decision)
            better = better if option_set is None else self._change_cuts(option_set, better, clock)
            better = self._assign_subchannels(better, clock)
            paid = better.delay_s < decision.delay_s * (1 - 0.1 * _TOLERANCE)
            decision = better if better.delay_s < decision.delay_s else decision
            if not paid or clock.expired:
                break
        self._keep_better(decision)

    def _assign_subchannels(self, decision: Decision, clock: Clock) -> Decision:
        """Owners of both bands by local search without kicks; from greedy ones where the given leave no rate."""
        evaluator, options = self.evaluator, decision.options
        band_problem = evaluator.main_problem(options, decision.main_owner_M, decision.share_K)
        if np.any(band_problem.need_K > 0):
            owner_M = descend(
                band_problem, first_incumbent(evaluator.main, band_problem, decision.main_owner_M), clock
            ).owner_M
            decision = _better(evaluator.decide(options, owner_M, decision.fed_owner_M, decision.share_K), decision)
        band_problem = evaluator.fed_problem(options)
        if np.any(band_problem.need_K > 0):
            owner_M = descend(
                band_problem, first_incumbent(evaluator.fed, band_problem, decision.fed_owner_M), clock
            ).owner_M
            decision = _better(evaluator.decide(options, decision.main_owner_M, owner_M, decision.share_K), decision)
        if self.problem.price_downlink and np.isfinite(decision.delay_s):
            owners = [
                ways.improve([owner_M], tables.lone_bound_s(ways.uplink), 0, clock)[0]
                if np.any(ways.uplink.need_K > 0) and together else owner_M
                for ways, owner_M, tables, together in zip(
                    self._both_ways([options]), (decision.main_owner_M, decision.fed_owner_M),
                    (evaluator.main, evaluator.fed), (not self.problem.share_server, True), strict=True,
                )
            ]  # fmt: skip
            decision = _better(evaluator.decide(options, owners[0], owners[1], decision.share_K), decision)
        return decision

    def _change_cuts(self, option_set: Options, decision: Decision, clock: Clock) -> Decision:
        """Change single clients' cuts, the most promising by the prices first, where the delay falls."""
        tries = max(30, min(400, 20_000_000 // self.evaluator.main.snr_per_w_KM.size))
        while np.isfinite(decision.delay_s) and not clock.expired:
            change_s_KC = predict_change_s(self.evaluator, option_set, decision)
            changed = decision
            for flat in np.argsort(change_s_KC, axis=None, kind="stable")[: option_set.num_clients]:
                k, c = divmod(int(flat), option_set.num_cuts)
                if tries == 0 or not change_s_KC[k, c] < 0:
                    break
                tries -= 1
                choice_K = option_set.choice_of(decision.options)
                choice_K[k] = c
                options = option_set.of(choice_K)
                if not self.evaluator.can_beat(options, decision):
                    continue
                changed = self.evaluator.balance_shares(self._decide(options, decision))
                if changed.delay_s < decision.delay_s * (1 - 1e-7):
                    break
            if not changed.delay_s < decision.delay_s * (1 - 1e-7):
                break
            decision = changed
        return decision

    def _solve(self, effort: Effort) -> None:
        """Solve both bands for the best decision, and bound every option set with the prices that this leaves."""
        evaluator, best = self.evaluator, self.best
        per_step = best.options.rounds * self.problem.local_steps
        band_problem = evaluator.main_problem(best.options, best.main_owner_M, best.share_K)
        main = self._incumbent(evaluator.main, band_problem, best.main_owner_M, per_step, effort)
        fed_problem = evaluator.fed_problem(best.options)
        fed = self._incumbent(evaluator.fed, fed_problem, best.fed_owner_M, best.options.rounds, effort)
        self._keep_better(evaluator.decide(best.options, main.owner_M, fed.owner_M, best.share_K))
        self._keep_better(evaluator.balance_shares(self.best))
        proof = _Proof(
            best.options,
            main,
            fed,
            self._costs(evaluator.main, band_problem, main, [m.up_bits_KC for m in self.option_sets]),
            self._costs(evaluator.fed, fed_problem, fed, [m.fed_bits_KC for m in self.option_sets]),
        )
        # only in the end: what the bound without it picks is worth a search
        thorough = effort is self.effort and not self.clock.expired
        if self.problem.price_downlink and thorough:
            self.two_ways = self._bound_both_ways(proof)
        for i in range(len(self.option_sets)):
            self._bound(i, proof, fine=False)
        for _ in range(_MOST_OPTION_SETS):
            i = int(np.argmin(self.lower_s))
            before_s = self.lower_s[i]
            if before_s < self._enough_s:
                self._bound(i, proof, fine=True)
            if self.lower_s[i] <= before_s or self.clock.expired:
                break
        if thorough:
            counted_s = self._count_shares(proof)
            if np.isfinite(self._goal_s()) and min(map(max, self.lower_s, counted_s)) < self._goal_s():
                self._pack_cuts(proof)
            self._prove(counted_s)

    @property
    def _size(self) -> int:
        """Pairs of a client and a subchannel in the larger band."""
        return max(self.evaluator.main.log_KM.size, self.evaluator.fed.log_KM.size)

    @property
    def _packs(self) -> bool:
        """Whether the cuts, or one for all with the shares of the server, are packed in the end."""
        most = _PACKED_SHARES if self.problem.share_server else _PACKED_UPLINK
        most = _PACKED if self.problem.price_downlink else most
        several = self.problem.cut_per_client or self.problem.share_server
        return several and self.effort.programs > 0 and self._size <= most

    def _pack_cuts(self, proof: _Proof) -> None:
        """Close the gap where clients have cuts or shares of their own, and take what is found on the way."""
        problem, evaluator, before_s, close = self.problem, self.evaluator, self.lower_s, self._closing(proof)
        least_s = self._least_times_s(proof)
        matched_s = self._match_cuts(least_s, close)
        self._prove(matched_s)
        best, rest = self.best, 1 - min(self.lower_s) / self.best.delay_s
        if not self._packs or rest <= (_TOLERANCE if problem.price_downlink else _OPEN_UPLINK):
            return
        option_sets = self._untied(least_s, proof)
        # where matching leaves something, programs start from what was known, by which they see whether they lead on
        refuted_s = [s if s >= self._goal_s() * (1 - _ROUNDING) else 0.0 for s in matched_s]
        lower_s = [max(pair) for pair in zip(before_s, refuted_s, strict=True)]
        packing = CutPacking(
            (evaluator.main, evaluator.fed), option_sets, problem.local_steps, problem.costs.download_share,
            problem.price_downlink, problem.share_server, self.clock,
        )  # fmt: skip

        def near(i: int) -> tuple[Array, Array]:
            return suited_prices(evaluator, option_sets[i], self.best.delay_s / self.option_sets[i].rounds)

        known, programs = [(best.main_owner_M, best.fed_owner_M)], int(_PACKING_PROGRAMS / np.sqrt(self._size))
        packing.run(known, least_s, lower_s, near, self._goal_s, self._look_around, close, programs)
        self._prove(packing.lower_s)

    def _closing(self, proof: _Proof) -> Callable[[int, IntArray, bool], float] | None:
        """Bounds of single choices of cuts, each made once, a few of them thoroughly; none where bands are tied."""
        closed: dict[tuple[int, bytes, bool], float] = {}

        def close_choice(i: int, choice_K: IntArray, thorough: bool) -> float:
            key = i, choice_K.tobytes()
            bound_s = max(closed.get((*key, False), 0.0), closed.get((*key, True), 0.0))
            spent = thorough and sum(done for *_, done in closed) >= _MOST_THOROUGH
            if bound_s < self._goal_s() and (*key, thorough) not in closed and not spent:
                options = self.option_sets[i].of(choice_K)
                closed[*key, thorough] = self._closed_choice_s(options, proof, self._goal_s(), thorough)
                bound_s = max(bound_s, closed[*key, thorough])
            return bound_s

        return None if self.problem.share_server else close_choice

    def _untied(self, least_s: list[list[float]], proof: _Proof) -> list[Options]:
        """Option sets, without adapters where one cut for all does not tie bands: only steps are left to pack.

        What adapters take at least of `least_s` is then that of both ways together.
        """
        option_sets = list(self.option_sets)
        for i, one in enumerate(option_sets):
            if one.num_cuts == 1:
                option_sets[i] = replace(one, fed_bits_KC=np.zeros(one.cut_KC.shape))
                least_s[i][-2:] = self._least_fed_both_s(one, proof), 0.0
        return option_sets

    def _match_cuts(
        self, least_s: list[list[float]], close: Callable[[int, IntArray, bool], float] | None
    ) -> list[float]:
        """What matching proves of every option set where there are hardly more subchannels than clients."""
        problem, most = self.problem, int(_MATCHED_BOXES / max(self._size, 1) / self.option_sets[0].num_cuts)
        several = problem.cut_per_client or problem.share_server
        if not several or self.effort.programs == 0 or self._size > _MATCHED or min(self.lower_s) >= self._goal_s():
            return self.lower_s
        ways = self._both_ways(self.option_sets)
        spare = [one.band.num_subchannels / problem.num_clients for one in ways]
        if min(spare) < 1 or min(spare) > _CROWDED:
            return self.lower_s
        matching = CutMatching(
            ways, self.option_sets, problem.local_steps, problem.costs.download_share, problem.price_downlink,
            problem.share_server, self.clock,
        )  # fmt: skip
        some = max(spare) > 1
        most = min(most // (_SPARE_TIMES if some else 1), _MOST_BOXES[some])
        matching.run(least_s, self.lower_s, self._goal_s, self._look_around, close, most)
        return matching.lower_s

    def _prove(self, lower_s: Sequence[float]) -> None:
        """Bounds of all option sets where they are better than those known."""
        self.lower_s = [max(pair) for pair in zip(self.lower_s, lower_s, strict=True)]

    def _goal_s(self) -> float:
        """A bound that is good enough where cuts are packed (s)."""
        return self.best.delay_s * (1 - _PACKED_TOLERANCE)

    def _look_around(self, found: Found) -> None:
        """Keep suggested cuts and owners, or better ones around if they are near enough, where they are the best."""
        evaluator, options = self.evaluator, self.option_sets[found.option_set].of(found.choice_K)
        tied = self.option_sets[found.option_set].num_cuts > 1
        fed_owner_M = found.fed_owner_M if tied else self.best.fed_owner_M
        decision = evaluator.balance_shares(evaluator.decide(options, found.main_owner_M, fed_owner_M))
        key = (found.option_set, found.choice_K.tobytes())
        if key not in self.looked_around and decision.delay_s < _NEAR * self.best.delay_s:
            self.looked_around.add(key)
            decision = evaluator.balance_shares(self._assign_subchannels(decision, self.clock))
        self._keep_better(decision)

    def _least_times_s(self, proof: _Proof) -> list[list[float]]:
        """What is proved of U, D, F and G, with shares of P, F and G, in every option set (s)."""
        least_s: list[list[float]] = []
        for option_set in self.option_sets:
            choices = self._choices(option_set)
            if self.problem.share_server:
                step_s = [self._least_step_s(option_set, choices, proof)]
            else:
                alone_s_KC = choices.need_KC / np.maximum(self.evaluator.main.lone_rate_K, 1e-300)[:, None]
                up_s_KC = option_set.ready_s_KC + alone_s_KC
                step_s = [float(np.max(_least(option_set, up_s_KC))), choices.least_back_s]
            least_s.append([*step_s, *self._least_fed_s(option_set, proof)])
        return least_s

    def _incumbent(
        self, tables: BandTables, band_problem: BandProblem, owner_M: IntArray, weight: float, effort: Effort
    ) -> Incumbent:
        """Incumbent of a band problem whose delay counts `weight` times, solved from given owners."""
        if not np.any(band_problem.need_K > 0):
            ready_s = float(np.max(band_problem.ready_K))
            return Incumbent(owner_M, ready_s, ready_s)
        gap_s = 0.5 * _TOLERANCE * self.best.delay_s / weight
        return solve(band_problem, first_incumbent(tables, band_problem, owner_M), gap_s, effort, self.clock)

    def _costs(
        self, tables: BandTables, band_problem: BandProblem, incumbent: Incumbent, bits_KC: Sequence[Array]
    ) -> RateCosts:
        """Costs of rates at a solved band's prices, around the rates that its clients and other choices need."""
        if incumbent.prices is None and np.any(band_problem.need_K > 0) and not self.clock.expired:
            goal_s = incumbent.delay_s
            incumbent = raise_lower_bound(band_problem, incumbent, goal_s, 1e-6 * goal_s, self.effort.iterations)
        air_s_K = np.maximum(incumbent.delay_s - band_problem.ready_K, 1e-3 * incumbent.delay_s + 1e-300)
        need_K2 = np.stack([band_problem.need_K, band_problem.need_K], axis=1)
        for bits in bits_KC:
            need_KC = bits / tables.band.effective_hz
            need_K2[:, 0] = np.minimum(need_K2[:, 0], np.min(np.where(need_KC > 0, need_KC, np.inf), axis=1))
            need_K2[:, 1] = np.maximum(need_K2[:, 1], np.max(need_KC, axis=1))
        low_K = np.where(need_K2[:, 0] > 0, need_K2[:, 0], np.maximum(need_K2[:, 1], 1e-300)) / air_s_K / 4.0
        span = 32.0 * float(np.max(need_K2[:, 1] / np.maximum(need_K2[:, 0], 1e-3 * need_K2[:, 1] + 1e-300)))
        num_rates = max(16, min(512, 2_000_000 // band_problem.log_KM.size))
        return rate_costs(
            band_problem, incumbent.prices, tables.lone_rate_K, low_K, max(span, 32.0) ** (1 / num_rates), num_rates
        )

    def _bound(self, i: int, proof: _Proof, fine: bool) -> None:
        """Raise the bound of an option set by what is known of the best decision's band problems."""
        option_set, problem, choices = self.option_sets[i], self.problem, self._choices(self.option_sets[i])
        rounds, steps = option_set.rounds, problem.local_steps
        fed_s, fed_down_s = self._least_fed_s(option_set, proof)
        step_s, both_s = self._least_step_s(option_set, choices, proof), self._least_fed_both_s(option_set, proof)
        scale = self._fed_scale(option_set)
        if self.two_ways:
            fed_two_ways = self.two_ways[1]

            def fed_after_s(up_s: float) -> float:
                return max(0.0, scale * fed_two_ways.least_down_s(up_s / scale) - fed_down_s)

            choices = replace(choices, fed_after_s=fed_after_s)
        both_s -= fed_down_s
        round_s = steps * step_s + both_s
        beat_s = self.best.delay_s / rounds - fed_down_s
        if not round_s < beat_s < np.inf or self.clock.expired:
            picks = ()
        elif problem.share_server:
            num_rates = min(4096, max(256, 2_000_000 // choices.need_KC.size)) if fine else 256
            most_s, precision = (beat_s - both_s) / steps, 1e-5 if fine else 1e-3
            bound = bound_shared(choices, proof.main_costs, num_rates, step_s, most_s, precision)
            round_s, picks = max(round_s, steps * bound.least_s + both_s), bound.picks
        elif option_set.num_cuts > 1:
            boxes = _BOXES if fine else _BOXES // 8
            bound = bound_together(choices, proof.main_costs, proof.fed_costs, steps, fed_s, beat_s, boxes)
            round_s, picks = max(round_s, bound.least_s), bound.picks
        else:
            picks = ()
        self.picks[i] = picks or self.picks.get(i, ())
        self.lower_s[i] = max(self.lower_s[i], rounds * (min(round_s, beat_s) + fed_down_s) * (1 - _ROUNDING))

    def _least_step_s(self, option_set: Options, choices: Choices, proof: _Proof) -> float:
        """Least seconds of a step if every client had the main band, and where they share it the server, to itself."""
        alone_s_KC = choices.need_KC / np.maximum(self.evaluator.main.lone_rate_K, 1e-300)[:, None]
        if self.problem.share_server:
            step_s_KC = choices.ready_s_KC + alone_s_KC + choices.work_s_KC + choices.back_s_KC
            return float(np.max(np.min(step_s_KC, axis=1)))
        up_s_KC = np.where(np.isfinite(choices.back_s_KC), choices.ready_s_KC + alone_s_KC, np.inf)
        up_s, solved = float(np.max(np.min(up_s_KC, axis=1))), proof.options
        if np.array_equal(option_set.up_bits_KC, solved.up_bits_KC) and np.array_equal(
            option_set.ready_s_KC, solved.ready_s_KC
        ):
            up_s = max(up_s, proof.main.bound_s)
        back_s = max(choices.least_back_s, float(np.max(np.min(choices.back_s_KC, axis=1))))
        both_s = max(up_s + back_s, self.two_ways[0].bound_s if self.two_ways else 0.0)
        return both_s + float(np.sum(np.min(choices.work_s_KC, axis=1)))

    def _count_shares(self, proof: _Proof) -> list[float]:
        """What counting subchannels and shares of the server together proves of every option set of one cut (s)."""
        steps, main, counted_s = self.problem.local_steps, self.evaluator.main, [0.0] * len(self.option_sets)
        if not self.problem.share_server or main.log_KM.size > _PACKED_SHARES:
            return counted_s
        up_rate_KN, down_rate_KN = _from_none(main.strongest_rates_KM * main.band.effective_hz), None
        if self.problem.price_downlink:
            down = Strongest.sums(downlink_rate_bit_per_s_KM(main.band))
            down_rate_KN = _from_none(down.rates(main.band.num_subchannels))
        for i, option_set in enumerate(self.option_sets):
            fed_s, rounds = self._least_fed_both_s(option_set, proof), option_set.rounds
            low_s, high_s = ((delay_s / rounds - fed_s) / steps for delay_s in (self.lower_s[i], self.best.delay_s))
            if option_set.num_cuts == 1 and low_s < high_s:
                times = _counted_times(option_set, up_rate_KN, down_rate_KN)
                step_s = least_shared_s(*times, max(low_s, 0.0), high_s)
                counted_s[i] = rounds * (steps * step_s + fed_s) * (1 - _ROUNDING)
        return counted_s

    def _choices(self, option_set: Options) -> Choices:
        """What the relaxation sees of an option set; of the way back, what a client alone in the band would need."""
        problem, back_s_KC, least_back_s = self.problem, option_set.back_s_KC, 0.0
        down: tuple[Array, Array] | tuple[None, None] = (None, None)
        if problem.price_downlink and problem.share_server:
            down = option_set.down_bits_KC, downlink_rate_bit_per_s_KM(problem.main)
        elif problem.price_downlink:
            alone_s_KC = transfer_s(
                option_set.down_bits_KC, downlink_rate_bit_per_s_KM(problem.main).sum(axis=1)[:, None]
            )
            least_bits_K, least_s_K = (_least(option_set, x) for x in (option_set.down_bits_KC, option_set.back_s_KC))
            least_back_s = least_downlink_s(problem.main, least_bits_K, least_s_K)
            back_s_KC = back_s_KC + alone_s_KC
        back_s_KC = np.where(option_set.allowed_KC, back_s_KC, np.inf)
        need_KC, fed_need_KC = (
            option_set.up_bits_KC / problem.main.effective_hz,
            option_set.fed_bits_KC / problem.fed.effective_hz,
        )
        after_s = self.two_ways[0].least_down_s if self.two_ways else None
        down_bits_KC, down_bit_per_s_KM = down
        return Choices(
            option_set.ready_s_KC, back_s_KC, option_set.work_s_KC, need_KC, fed_need_KC, least_back_s, after_s,
            down_bits_KC=down_bits_KC, down_bit_per_s_KM=down_bit_per_s_KM,
        )  # fmt: skip

    def _both_ways(self, options: Sequence[Options]) -> tuple[BothWays, BothWays]:
        """Both ways of both bands with the least that any of the options asks."""

        def least(name: str) -> Array:
            return np.min([_least(option_set, vars(option_set)[name]) for option_set in options], axis=0)

        main, fed, none_K = self.evaluator.main, self.evaluator.fed, np.zeros(self.problem.num_clients)
        fed_bits_K, ready_s_K, priced = least("fed_bits_KC"), least("ready_s_KC"), self.problem.price_downlink
        up, down_bits_K = main.problem(ready_s_K, least("up_bits_KC")), least("down_bits_KC") * priced
        fed_down_bits_K = fed_bits_K * (self.problem.costs.download_share * priced)
        return (
            BothWays(main.band, up, down_bits_K, least("back_s_KC")),
            BothWays(fed.band, fed.problem(none_K, fed_bits_K), fed_down_bits_K, none_K),
        )

    def _fed_scale(self, option_set: Options) -> float:
        """How many times the least adapters of all option sets every client sends at least."""
        base_K = np.min([_least(other, other.fed_bits_KC) for other in self.option_sets], axis=0)
        ratio_K = _least(option_set, option_set.fed_bits_KC)[base_K > 0] / base_K[base_K > 0]
        return float(np.min(ratio_K, initial=1e300)) if np.any(base_K > 0) else 1.0

    def _bound_both_ways(self, proof: _Proof) -> tuple[TwoWays, TwoWays]:
        """What is proved of both ways of both bands whatever the options."""
        rest_s, steps = self.best.delay_s / self.best.options.rounds, self.problem.local_steps
        packs = self._packs and self.problem.cut_per_client
        effort = replace(self.effort, programs=0) if packs else self.effort  # those of the cuts say more
        found: list[TwoWays] = []
        for one, times in zip(self._two_ways_of(self.option_sets, proof), (steps, 1), strict=True):
            gap_s = 5 * _TOLERANCE * rest_s / times
            solves = not self.problem.share_server or one.ways.band is self.problem.fed
            found.append(one.solved(gap_s, np.inf, effort, self.clock) if solves else one.known)
        return found[0], found[1]

    def _two_ways_of(self, options: Sequence[Options], proof: _Proof) -> list[_WaysOfBand]:
        """Both ways of both bands with the least that any of the options asks, from the best owners on."""
        best, found = self.best, list[_WaysOfBand]()
        for ways, owner_M, known, tables in zip(
            self._both_ways(options), (best.main_owner_M, best.fed_owner_M), (proof.main, proof.fed),
            (self.evaluator.main, self.evaluator.fed), strict=True,
        ):  # fmt: skip
            if not np.any(ways.uplink.need_K > 0):
                found.append(_WaysOfBand(ways, TwoWays(owner_M, 0.0, ways.least_down_s), 0.0, None))
                continue
            up_s, delay_s = tables.lone_bound_s(ways.uplink), ways.delay_s(owner_M)
            if known.prices is not None:
                up_s = bound_by_prices(ways.uplink, known.prices, up_s, max(delay_s, up_s))
            start = TwoWays(owner_M, delay_s, up_s + ways.least_down_s)
            found.append(_WaysOfBand(ways, start, up_s, known.prices))
        return found

    def _closed_choice_s(self, options: Options, proof: _Proof, goal_s: float, thorough: bool) -> float:
        """No plan with these cuts is faster (s), up to a goal; its bands are told apart, and better owners are kept."""
        steps, both = self.problem.local_steps, self._two_ways_of([options], proof)
        times, rest_s = (steps, 1), goal_s / options.rounds - steps * float(np.sum(options.work_s_KC))
        effort = self.effort if thorough else replace(self.effort, programs=0, halvings=_FEW_HALVINGS)
        for j in (1, 0):
            beat_s = (rest_s - times[1 - j] * both[1 - j].known.bound_s) / times[j]
            gap_s = 0.5 * _PACKED_TOLERANCE * goal_s / options.rounds / times[j]
            known = both[j].solved(gap_s, beat_s, effort, self.clock)
            wide = times[j] * (min(known.delay_s, beat_s) - known.bound_s) * options.rounds > _WIDE * goal_s
            if thorough and wide and is_tiny(both[j].ways.uplink):
                known = both[j].ways.close(known, both[j].up_s, gap_s, beat_s)
            both[j] = both[j]._replace(known=known)
        main, fed = (one.known for one in both)
        self._keep_better(self.evaluator.decide(options, main.owner_M, fed.owner_M))
        return goal_s - options.rounds * (rest_s - steps * main.bound_s - fed.bound_s)

    def _least_fed_s(self, option_set: Options, proof: _Proof) -> tuple[float, float]:
        """Least seconds of the adapters' upload and download for any choice from an option set."""
        problem, bits_K, fed = self.problem, _least(option_set, option_set.fed_bits_KC), proof.fed
        down_bits_K, at_once_K = bits_K * problem.costs.download_share, np.zeros(len(bits_K))
        down_s = least_downlink_s(problem.fed, down_bits_K, at_once_K) if problem.price_downlink else 0.0
        if not np.any(bits_K > 0):
            return 0.0, down_s
        solved_K = proof.options.fed_bits_KC[:, 0]
        scale = float(np.min(bits_K[solved_K > 0] / solved_K[solved_K > 0], initial=np.inf))
        band_problem = self.evaluator.fed.problem(np.zeros(len(bits_K)), bits_K)
        up_s = max(self.evaluator.fed.lone_bound_s(band_problem), scale * fed.bound_s if np.isfinite(scale) else 0.0)
        if option_set.num_cuts > 1 and fed.prices is not None:
            up_s = bound_by_prices(band_problem, fed.prices, up_s, max(up_s, self.best.fed_s))
        return up_s, down_s

    def _least_fed_both_s(self, option_set: Options, proof: _Proof) -> float:
        """Least seconds of the adapters' exchange, both ways together, for any choice from an option set."""
        both_s = self._fed_scale(option_set) * self.two_ways[1].bound_s if self.two_ways else 0.0
        return max(both_s, float(np.sum(self._least_fed_s(option_set, proof))))


class _WaysOfBand(NamedTuple):
    """Both ways of a band, what is known of them, what is proved of the uplink alone (s), and prices to start from."""

    ways: BothWays
    known: TwoWays
    up_s: float
    prices: Prices | None

    def solved(self, gap_s: float, beat_s: float, effort: Effort, clock: Clock) -> TwoWays:
        """What is known after a search for owners and bound."""
        if self.known.delay_s <= 0.0:  # nothing is sent
            return self.known._replace(front_P2=np.zeros((0, 2)))
        return self.ways.solve(self.known, Asked(self.prices, self.up_s, gap_s, beat_s, effort, clock))


class _Proof(NamedTuple):
    """What is known of a decision in both bands: its options, incumbents, and costs of rates at their prices."""

    options: Options
    main: Incumbent
    fed: Incumbent
    main_costs: RateCosts
    fed_costs: RateCosts


def _from_none(rate_KM: Array) -> Array:
    """Rates with n subchannels, n from 0 where those given begin with 1."""
    return np.pad(rate_KM, ((0, 0), (1, 0)))


def _counted_times(option_set: Options, up_rate_KN: Array, down_rate_KN: Array | None) -> tuple[Array, Array]:
    """Least seconds of cuts with n subchannels, n from 0, without the server, [K, C, N], and at all of it, [K, C]."""
    time_KCN = transfer_s(option_set.up_bits_KC[:, :, None], up_rate_KN[:, None])
    if down_rate_KN is not None:
        time_KCN = time_KCN + transfer_s(option_set.down_bits_KC[:, :, None], down_rate_KN[:, None])
    own_s_KC = np.where(option_set.allowed_KC, option_set.ready_s_KC + option_set.back_s_KC, np.inf)
    return (time_KCN + own_s_KC[:, :, None]) * (1 - _ROUNDING), option_set.work_s_KC * (1 - _ROUNDING)


def predict_change_s(evaluator: Evaluator, option_set: Options, decision: Decision) -> Array:
    """Change of a round's delay if one client took another cut, at the present prices of airtime, [K, C].

    For given owners the delay is convex in the clients' seconds, so that the true change is no less.
    """
    own = decision.options
    start_s_KC, back_s_KC = option_set.ready_s_KC - own.ready_s_KC, option_set.back_s_KC - own.back_s_KC
    work_s_KC = option_set.work_s_KC - own.work_s_KC
    band_problem = evaluator.main_problem(own, decision.main_owner_M, decision.share_K)
    weight_K, air_s_K = _delay_per_second(band_problem, decision.main_owner_M)
    start_s_KC = start_s_KC + air_s_K[:, None] * _more(option_set.up_bits_KC, own.up_bits_KC)
    if decision.share_K is None:
        back_s_K = evaluator.back_s_K(own, decision.main_owner_M)
        last_s_KC = np.maximum(_largest_of_others(back_s_K)[:, None], back_s_K[:, None] + back_s_KC)
        step_s_KC = weight_K[:, None] * start_s_KC + work_s_KC + last_s_KC - np.max(back_s_K)
    else:
        share_K1, work_s_K1 = np.maximum(decision.share_K, 1e-300)[:, None], np.maximum(own.work_s_KC, 1e-300)
        weight_K1 = np.where(own.work_s_KC > 0, share_K1**2 / work_s_K1, 0.0)
        weight_K1 = weight_K1 / max(float(np.sum(weight_K1)), 1e-300)
        step_s_KC = weight_K1 * (start_s_KC + back_s_KC + np.minimum(work_s_KC / share_K1, _LONGEST_S))
    fed_weight_K, fed_air_s_K = _delay_per_second(evaluator.fed_problem(own), decision.fed_owner_M)
    fed_s_KC = (fed_weight_K * fed_air_s_K)[:, None] * _more(option_set.fed_bits_KC, own.fed_bits_KC)
    change_s_KC = evaluator.problem.local_steps * step_s_KC + fed_s_KC
    return np.where(option_set.allowed_KC & (option_set.cut_KC != own.cut_KC), change_s_KC, np.inf)


def _delay_per_second(band_problem: BandProblem, owner_M: IntArray) -> tuple[Array, Array]:
    """What the band problem's end moves per second that a client starts later, and each client's airtime (s)."""
    delay_s, _, level_K = optimal_power(band_problem, owner_M)
    sends = band_problem.need_K > 0
    air_s_K = np.where(sends, np.maximum(delay_s - band_problem.ready_K, 1e-300), 0.0)
    slope_K = np.divide(
        level_K * band_problem.need_K, air_s_K**2, out=np.zeros(len(air_s_K)), where=sends & (air_s_K > 1e-150)
    )
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


def _least(option_set: Options, value_KC: Array) -> Array:
    return np.min(np.where(option_set.allowed_KC, value_KC, np.inf), axis=1)


def _better(one: Decision, other: Decision) -> Decision:
    return one if one.delay_s < other.delay_s else other
