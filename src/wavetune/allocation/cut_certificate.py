"""Certificate of the bound where every client has a cut or a share of the server of its own.

`tools/verify_own_cuts.py` checks that of cuts, `tools/verify_shares.py` that of shares. A proof of a rank, or of a cut
and rank of all, is a tree of parts, as `cut_packing` divides them. In a part prices prove, by the formula there, that
no round is shorter than claimed, or which cuts no shorter round has; of what is left, one client's cut, one owner of a
subchannel or seconds are told apart. That a cut's sets cost no less than they have to is proved by multipliers, as in
`refutation`. Where a part is left open, less is claimed.
Shape suffixes: K clients, M subchannels, C cuts, T for U, D, F and G or, with shares, P, F and G, M1 for the
subchannels and the total power.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from wavetune.allocation.both_ways import BothWays
from wavetune.allocation.cut_packing import Asked, CutPacking, Divided, Trace, parts
from wavetune.allocation.cut_packing import Prices as CutPrices
from wavetune.allocation.decision import Evaluator, Options, options_of
from wavetune.allocation.effort import Clock, effort_of
from wavetune.allocation.feasibility import memory_need_bytes_K, pairs_within_memory
from wavetune.allocation.instance import Json
from wavetune.allocation.plan import Plan
from wavetune.allocation.prices import Slow
from wavetune.allocation.problem import BoolArray, IntArray, Problem
from wavetune.allocation.refutation import Cases, Refuter, Ways
from wavetune.allocation.set_packing import cheapest_sets_in_time
from wavetune.allocation.shared_in_time import suited_prices
from wavetune.allocation.water_filling import BandProblem
from wavetune.units import Array

_PACKED, _PROGRAMS = 1000, 2400.0  # size of bands whose prices linear programs move, and how many at size 1
_PACKED_SHARES = 3000  # the same with shares of the server
_CLOSE = 1e-3  # of the delay, for which nothing is proved: what is missing there would make files large
_MOST_SETS = 300  # that are looked at for one cheapest set
_MARGIN = 1e-4  # of a round, by which all clients' sets may cost less than they do
_SAFE = 1 - 1e-9
_BANDS = "main", "fed"
_CHOICES, _FAILED = 128, 4  # of cuts that are tried one by one anyway, and that may fail before no more are tried
_HALVINGS = 10  # of the way back's end, for one choice of cuts
_FED = 0.1  # share of what known owners take too long that is left to the fed band
_LONG = 2.0  # rounds, which a set costs that cannot be in time


class _Known(NamedTuple):
    """What prices prove of a part: what seconds cost besides, what is paid (s), and what each cut costs at least."""

    slope_T: Array
    paid_s: float
    least_KC: Array


class _Part(NamedTuple):
    """Cuts that are left, seconds, who may own what in both bands, [K, M], and what is known from prices."""

    allowed_KC: BoolArray
    edges_T2: Array
    hears: tuple[BoolArray, BoolArray]
    known: tuple[_Known, ...] = ()


def own_choices_certificate(problem: Problem, plan: Plan, clock: Clock) -> Json:
    """What proves the plan's bound, or less, where clients have cuts or shares of the server of their own.

    No plan of a rank, or of a cut and rank of all clients, has a round shorter than `lower_bound_s` over the rank's
    rounds to the target. No plan of mixed ranks is faster than one of the least of them.
    """
    evaluator, shared = Evaluator(problem), problem.share_server
    bands, steps = (evaluator.main, evaluator.fed), problem.local_steps
    named = _option_sets(problem)
    goal_s = min(plan.lower_bound_s, (1 - _CLOSE) * plan.delay_s)
    apart = BandsApart(problem, evaluator, plan)
    alone = [_told_apart(one, apart, goal_s / one.rounds) for _, one in named]
    option_sets = [one for one, _, _ in alone]
    packing = CutPacking(
        bands, option_sets, steps, problem.costs.download_share, problem.price_downlink, shared, clock
    )  # fmt: skip
    size = max(tables.log_KM.size for tables in bands)
    hertz = problem.main.effective_hz, problem.fed.effective_hz
    proofs = [
        CutProof(packing, i, one, hertz, goal_s / one.rounds, apart, fed_s) for i, (one, fed_s, _) in enumerate(alone)
    ]

    def close(i: int, choice_K: IntArray, _: bool) -> float:
        return option_sets[i].rounds * proofs[i].closed(choice_K)[1]

    most = _PACKED_SHARES if shared else _PACKED
    packing.run(
        [(plan.main.owner_M, plan.fed.owner_M)],
        [proof.first_T(one.allowed_KC).tolist() for one, proof in zip(option_sets, proofs, strict=True)],
        [0.0] * len(option_sets),
        lambda i: suited_prices(evaluator, option_sets[i], goal_s / option_sets[i].rounds), lambda: goal_s,
        lambda _: None, None if shared else close, int(_PROGRAMS / np.sqrt(size)) if size <= most else 0, patient=True,
    )  # fmt: skip
    found = [
        {**name, **fed, "proof": proof.of(trace)}
        for (name, _), (_, _, fed), proof, trace in zip(named, alone, proofs, packing.traces, strict=True)
    ]
    lower_s = min(one.rounds * proof.reached_s for one, proof in zip(option_sets, proofs, strict=True))
    return {"lower_bound_s": lower_s * _SAFE, "ranks" if problem.cut_per_client else "pairs": found}


def _option_sets(problem: Problem) -> list[tuple[Json, Options]]:
    """All that fits the memories, whether or not anybody hears the clients there: a rank's cuts, or a cut and rank."""
    if problem.cut_per_client:
        return [({"rank": rank}, _within_memory(problem, problem.cuts, rank)) for rank in problem.ranks]
    return [
        ({"cut": cut, "rank": rank}, _within_memory(problem, [cut], rank)) for cut, rank in pairs_within_memory(problem)
    ]


def _within_memory(problem: Problem, cuts: Sequence[int], rank: int) -> Options:
    """Some cuts of a rank, and which of them fit the clients' memories."""
    one = options_of(replace(problem, cuts=tuple(cuts)), rank)
    fits = [memory_need_bytes_K(problem, cut, rank) <= problem.memory_bytes_K for cut in cuts]
    return replace(one, allowed_KC=np.stack(fits, axis=1))


def _told_apart(one: Options, apart: BandsApart, round_s: float) -> tuple[Options, float, Json]:
    """With one cut for all nothing ties both bands: options without adapters, what these take (s), and the proof."""
    if apart.problem.cut_per_client or not np.all(one.allowed_KC):
        return one, 0.0, {}
    fed_s, listed = apart.fed(one, round_s)
    return replace(one, fed_bits_KC=np.zeros(one.cut_KC.shape)), fed_s * _SAFE, {"fed": listed}


def _alone(problem: BandProblem) -> Array:
    """What every subchannel carries at all of a client's power, [K, M] (bit/s/Hz)."""
    snr_KM = np.exp2(np.maximum(problem.log_KM, -1e3)) * problem.cap_w_K[:, None]
    return np.minimum(np.log1p(snr_KM) / np.log(2.0), problem.limit)


class BandsApart:
    """Proofs of what both bands take at least for given cuts, each by itself, which start from those found before."""

    def __init__(self, problem: Problem, evaluator: Evaluator, plan: Plan) -> None:
        self.problem, effort = problem, effort_of(problem.main.gain_KM.size, False)
        self.tables, self.owners = (evaluator.main, evaluator.fed), (plan.main.owner_M, plan.fed.owner_M)
        self.refuters = [
            Refuter(
                hertz=tables.band.effective_hz, owner_M=owner_M, known=[], iterations=effort.iterations,
                programs=effort.programs,
            )
            for tables, owner_M in zip(self.tables, self.owners, strict=True)
        ]  # fmt: skip

    def proof(self, options: Options, round_s: float) -> tuple[Json, float]:
        """What proves that a round with these cuts is no shorter (s), up to a goal."""
        steps, known_s = self.problem.local_steps, [known_s for _, known_s in self._known(options)]
        rest_s = round_s - steps * float(np.sum(options.work_s_KC))
        spare_s = max(0.0, known_s[1] + steps * known_s[0] - rest_s)  # which the known owners take too long
        fed_s, fed = self.fed(options, min(known_s[1] - _FED * spare_s, rest_s))
        main_s, main = self._climbed(0, self._known(options)[0][0], (rest_s - fed_s) / steps * (1 + 1e-9))
        return {"main": main, "fed": fed}, round_s - (rest_s - steps * main_s - fed_s)

    def fed(self, options: Options, most_s: float = np.inf) -> tuple[float, list[Json]]:
        """That the adapters with these cuts take no less both ways (s), up to a goal, and what proves it."""
        ways, known_s = self._known(options)[1]
        return self._climbed(1, ways, min(known_s, most_s))

    def _known(self, options: Options) -> list[tuple[Ways, float]]:
        """Both ways of both bands, and what they take the plan's owners (s)."""
        priced, nothing_K = self.problem.price_downlink, np.zeros(options.num_clients)
        fed_K = options.fed_bits_KC[:, 0]
        asks = (
            (options.ready_s_KC[:, 0], options.up_bits_KC[:, 0], options.back_s_KC[:, 0], options.down_bits_KC[:, 0]),
            (nothing_K, fed_K, nothing_K, fed_K * self.problem.costs.download_share),
        )
        found: list[tuple[Ways, float]] = []
        for tables, owner_M, (ready_s_K, up_K, after_s_K, down_K) in zip(self.tables, self.owners, asks, strict=True):
            both = BothWays(tables.band, tables.problem(ready_s_K, up_K), down_K * priced, after_s_K)
            known_s = both.delay_s(owner_M) if np.any(up_K > 0) else both.down_s(owner_M)
            found.append((Ways(both.uplink, after_s_K, both if priced else None), known_s))
        return found

    def _climbed(self, j: int, ways: Ways, goal_s: float) -> tuple[float, list[Json]]:
        return ways.climbed(self.refuters[j], goal_s, goal_s, _HALVINGS)


_Values = tuple[Asked, Array, IntArray]  # how much sets cost at least (rounds), and how large such sets are


class CutProof:
    """The proof that no round of an option set is shorter than `round_s`; less may be `reached_s`.

    `fed_s` is what adapters take that its option set leaves out (s).
    """

    def __init__(
        self,
        packing: CutPacking,
        i: int,
        options: Options,
        hertz: tuple[float, float],
        round_s: float,
        apart: BandsApart,
        fed_s: float,
    ) -> None:
        self.packing, self.i, self.one, self.cut_KC, self.hertz = (
            packing,
            i,
            packing.option_sets[i],
            options.cut_KC,
            hertz,
        )
        self.options, self.apart, self.fed_s = options, apart, fed_s
        self.choices: dict[bytes, tuple[Json, float]] = {}
        self.round_s = self.reached_s = round_s
        self.margin = _MARGIN / (2 * options.num_clients)
        for band in packing.bands:  # bit/s/Hz of each client that has all of its power on every subchannel
            band.alone_K = np.sum(_alone(band.problem), axis=1)

    def first_T(self, allowed_KC: BoolArray) -> Array:
        """The last seconds are no sooner, [T]."""
        main_KC2, fed_KC2 = (band.least_s(asks) for band, asks in zip(self.packing.bands, self.one.asks, strict=True))
        if self.packing.shared:
            main_KC2 = (np.sum(main_KC2, axis=2) + self.one.work_s_KC)[..., None]
        first_KCT = np.concatenate((main_KC2, fed_KC2), axis=2)
        first_T = np.max(np.min(np.where(allowed_KC[..., None], first_KCT, np.inf), axis=1), axis=0)
        first_T[-2] += self.fed_s
        return first_T

    def of(self, trace: Trace) -> Json:
        """The proof from what was found; `reached_s` follows."""
        hears = [np.ones(band.problem.log_KM.shape, np.bool_) for band in self.packing.bands]
        edges_T2 = np.tile([0.0, np.inf], (len(self.packing.times_T), 1))
        return self._proof(trace, _Part(self.one.allowed_KC.copy(), edges_T2, (hears[0], hears[1])))

    def _proof(self, trace: Trace, part: _Part) -> Json:
        part, best_s = self._narrowed(part)
        proof: Json = {}
        here = proof
        for prices in trace.prices:
            if best_s >= self.round_s:
                return proof
            values = self._values(part, prices)
            tried, tried_s = self._narrowed(self._with(part, prices, self._sum(part, prices, values)))
            if not (tried_s > best_s or np.any(tried.allowed_KC != part.allowed_KC)):
                continue
            written, least_KC = self._written(part, prices, values)
            part, best_s = self._narrowed(self._with(part, prices, least_KC))
            inner: Json = {}
            here |= written | {"then": inner}
            here = inner
        if best_s >= self.round_s:
            return proof
        if not trace.parts:
            choices = np.prod(np.sum(part.allowed_KC, axis=1, dtype=np.float64))
            if not self.packing.shared and (trace.closed or choices <= _CHOICES):
                here |= self._of_choices(part)
            else:
                self.reached_s = min(self.reached_s, best_s)
            return proof
        here |= self._words(trace.divided)
        halves = parts(trace.divided, part.allowed_KC, part.edges_T2, part.hears)
        for name, one, changes in zip(("has", "lacks"), trace.parts, halves, strict=True):
            here[name] = self._proof(one, part._replace(**changes))
        return proof

    def closed(self, choice_K: IntArray) -> tuple[Json, float]:
        """What proves that no round with these cuts is shorter (s), up to what is of interest."""
        key = choice_K.tobytes()
        if key not in self.choices:
            failed = sum(reached_s < self.round_s for _, reached_s in self.choices.values())
            spent = failed >= _FAILED
            self.choices[key] = ({}, 0.0) if spent else self.apart.proof(self.options.of(choice_K), self.round_s)
        return self.choices[key]

    def _of_choices(self, part: _Part) -> Json:
        """The proof of a part that is divided by cuts alone, down to each choice that is left."""
        part, best_s = self._narrowed(part)
        count_K = np.sum(part.allowed_KC, axis=1)
        if best_s >= self.round_s:
            return {}
        k = int(np.argmax(count_K))
        if count_K[k] == 1:
            proof, reached_s = self.closed(np.argmax(part.allowed_KC, axis=1))
            self.reached_s = min(self.reached_s, max(reached_s, best_s))
            return {"apart": proof} if reached_s > best_s else {}
        by = "cut", k, int(np.argmax(part.allowed_KC[k]))
        halves = parts(by, part.allowed_KC, part.edges_T2, part.hears)
        proofs = [self._of_choices(part._replace(**changes)) for changes in halves]
        return self._words(by) | {"has": proofs[0], "lacks": proofs[1]}

    def _narrowed(self, part: _Part) -> tuple[_Part, float]:
        """The part without cuts that no shorter round has, and what is proved of its rounds (s)."""
        times_T, one = self.packing.times_T, self.one
        allowed_KC, edges_T2, _, known = part
        first_T = np.maximum(edges_T2[:, 0], self.first_T(allowed_KC))
        work_s_KC = np.where(allowed_KC, one.work_s_KC * (not self.packing.shared), np.inf)
        best_s = float(times_T @ first_T + np.sum(np.min(work_s_KC, axis=1)))
        if not best_s < self.round_s:
            return part, np.inf
        last_T = np.minimum(edges_T2[:, 1], first_T + (self.round_s - best_s) / times_T)
        if np.any(first_T > last_T):
            return part, np.inf
        for slope_T, paid_s, value_KC in known:
            least_KC = np.where(allowed_KC, value_KC, np.inf)
            least_K = np.min(least_KC, axis=1)
            total_s = float(np.sum(np.minimum(slope_T * first_T, slope_T * last_T)) + np.sum(least_K)) - paid_s
            best_s = max(best_s, total_s * _SAFE)
            if best_s >= self.round_s:
                return part, best_s
            allowed_KC = allowed_KC & (least_KC - least_K[:, None] <= self.round_s - total_s)
        return part._replace(allowed_KC=allowed_KC, edges_T2=np.stack((first_T, last_T), axis=1)), best_s

    def _with(self, part: _Part, prices: CutPrices, least_KC: Array) -> _Part:
        slope_T = self.packing.times_T - np.sum(prices.late_KT, axis=0)
        paid_s = float(np.sum(prices.main_M1) + np.sum(prices.fed_M1)) + prices.server
        return part._replace(known=(*part.known, _Known(slope_T, paid_s, least_KC)))

    def _words(self, by: Divided) -> Json:
        """What tells two parts apart."""
        kind, *numbers = by
        if kind == "time":
            return {"time": numbers[0], "at_s": numbers[1]}
        if kind == "cut":
            return {"client": numbers[0], "cut": int(self.cut_KC[numbers[0], numbers[1]])}
        return {"band": _BANDS[numbers[0]], "client": numbers[1], "subchannel": numbers[2]}

    def _asked(self, part: _Part, j: int, late_K2: Array) -> Asked:
        """What a band's sets are asked in a part."""
        asks, share_KC2 = self.packing.asked(self.i, part.edges_T2, part.allowed_KC)
        band, edges_22 = self.packing.bands[j], self.packing.edges(part.edges_T2, j)
        in_time = np.isfinite(np.sum(band.rates(asks[j], edges_22[:, 1]), axis=0))
        possible_KC = part.allowed_KC & (share_KC2[..., 0] <= share_KC2[..., 1]) & in_time
        asked = band.asked(asks[j], edges_22, possible_KC, part.hears[j], late_K2, self.round_s)
        return asked._replace(start_KC=np.where(possible_KC, asked.start_KC, np.inf))

    def _values(self, part: _Part, prices: CutPrices) -> list[_Values]:
        """What is asked of both bands, what sets for it cost at least (rounds), and how large such sets are."""
        found: list[_Values] = []
        for j, weight_M1 in enumerate(prices.weights):
            asked, band = self._asked(part, j, prices.late_KT[:, self.packing.ways[j]]), self.packing.bands[j]
            value_J, size_J = np.full(len(asked.client_J), _LONG), np.ones(len(asked.client_J), np.int64)
            possible_J = asked.problem.need_K <= band.most_K[asked.client_J]
            possible_J &= asked.problem.ask_K <= band.most_down_K[asked.client_J] / band.unit
            if np.any(possible_J):
                one = asked.problem._replace(
                    ready_K=asked.problem.ready_K[possible_J],
                    need_K=asked.problem.need_K[possible_J],
                    ask_K=asked.problem.ask_K[possible_J],
                )
                value_J[possible_J], set_JM = cheapest_sets_in_time(
                    one, asked.client_J[possible_J], asked.slow_J4[possible_J], weight_M1 / self.round_s, _MOST_SETS
                )
                size_J[possible_J] = np.sum(set_JM, axis=1)
            found.append((asked, value_J, size_J))
        return found

    def _sum(self, part: _Part, prices: CutPrices, values: list[_Values]) -> Array:
        """What each cut costs, [K, C] (s)."""
        _, share_KC2 = self.packing.asked(self.i, part.edges_T2, part.allowed_KC)
        least_KC = np.where(part.allowed_KC, self.packing.served_s(self.i, prices, share_KC2), np.inf)
        for asked, value_J, _ in values:
            least_KC = least_KC + asked.start_KC
            least_KC[asked.client_J, asked.cut_J] += value_J * self.round_s
        return least_KC

    def _written(self, part: _Part, prices: CutPrices, values: list[_Values]) -> tuple[Json, Array]:
        """Prices with a proof of what each cut costs, and what is proved of it, [K, C] (s)."""
        exact_KC = self._sum(part, prices, values)
        clients = [dict[str, Json]() for _ in range(len(exact_KC))]
        _, exact_s = self._narrowed(self._with(part, prices, exact_KC))
        enough_KC = np.min(exact_KC, axis=1, keepdims=True) + max(0.0, self.round_s - exact_s)
        enough_KC = np.minimum(exact_KC, enough_KC * (1 + 1e-9)) - self.margin * self.round_s
        cases = [self._cases(j, prices.weights[j], *values[j]) for j in range(2)]
        plain = [[one.plain() for one in band] for band in cases]
        reached = [np.array([one.reached for one in band]) for band in cases]
        lacks_KC = self._sum(part, prices, [(v[0], r, v[2]) for v, r in zip(values, reached, strict=True)]) < enough_KC
        for j, (asked, value_J, size_J) in enumerate(values):
            name = _BANDS[j]
            for n, (proof, one) in enumerate(zip(plain[j], cases[j], strict=True)):
                k, c = int(asked.client_J[n]), int(asked.cut_J[n])
                if lacks_KC[k, c] and one.reached < value_J[n] - self.margin:
                    one.target, one.reached = float(value_J[n]) - self.margin, np.inf
                    found = one.by_size(int(size_J[n]))
                    if found:
                        proof, reached[j][n] = found, one.reached
                clients[k].setdefault(str(self.cut_KC[k, c]), Json())[name] = proof
        least_KC = self._sum(part, prices, [(v[0], r, v[2]) for v, r in zip(values, reached, strict=True)])
        weights: Json = {
            name: {"subchannels": weight_M1[:-1].tolist(), "power": float(weight_M1[-1])}
            for name, weight_M1 in zip(_BANDS, prices.weights, strict=True)
        }
        weights |= {"server": prices.server} if self.packing.shared else {}
        return weights | {"late": prices.late_KT.tolist(), "clients": clients}, least_KC

    def _cases(self, j: int, weight_M1: Array, asked: Asked, value_J: Array, size_J: IntArray) -> list[Cases]:
        """The searches for proofs of what a band's sets cost."""
        band, hertz = self.packing.bands[j], self.hertz[j]

        def written(multiplier_3: Array) -> Json:
            nu, alpha, delta = (self.round_s * multiplier_3).tolist()
            return {"multipliers": [nu / hertz, max(alpha, 0.0), delta / band.unit]}

        found: list[Cases] = []
        for n, k in enumerate(asked.client_J.tolist()):
            one = asked.problem._replace(
                log_KM=asked.problem.log_KM[k : k + 1],
                inverse_KM=asked.problem.inverse_KM[k : k + 1],
                ready_K=asked.problem.ready_K[n : n + 1],
                need_K=asked.problem.need_K[n : n + 1],
                cap_w_K=asked.problem.cap_w_K[k : k + 1],
                back_KM=asked.problem.back_KM[k : k + 1],
                ask_K=asked.problem.ask_K[n : n + 1],
            )
            slow = Slow(*asked.slow_J4[n].tolist())
            found.append(Cases(written, one, weight_M1 / self.round_s, 0, 1.0, 0.0, slow))
        return found
