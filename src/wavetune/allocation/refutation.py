"""Proofs that no owners and powers of a band meet a delay, for whoever trusts nothing of ours, and the search for them.

A proof is prices with a proof of each client's cheapest set. That of a client is three multipliers, or two cases, by
the size of its sets or whether they have a subchannel. The claim is that of `prices`; `tools/verify_plan.py` checks it.
Shape suffixes: K clients, M subchannels, M1 for the subchannels and the total power, K2 both sides of a client's sets.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from wavetune.allocation.band import copy_prices, strongest_uplink
from wavetune.allocation.both_ways import BothWays
from wavetune.allocation.counting import Strongest, enough_columns, strongest
from wavetune.allocation.dual_bound import excess, provable_delay, raise_bound, uniform_prices
from wavetune.allocation.gains import NO_GAIN_LOG2
from wavetune.allocation.instance import Json
from wavetune.allocation.prices import NOT_SLOW, Prices, Slow
from wavetune.allocation.problem import IntArray
from wavetune.allocation.set_packing import cheapest_sets, client_prices, is_small, pack, reduced_costs_of
from wavetune.allocation.water_filling import NO_VITAL, BandProblem
from wavetune.units import Array

KNOWN = 4
_MARGIN = 2e-8  # of an excess, beyond what the checker's rounding takes
_MOST_SETS, _CASES, _FAINT = 2_000, 1_000, 1e-6
_SAFE, _COUNTED = 1 - 1e-9, 1 - 1e-5  # the latter of a way back that counting refutes, for multipliers to do so too
_NARROW, _HALVINGS = 5e-5, 4  # share of the goal under which an interval of the way back is not halved
_SURE = 1e6  # a weight that keeps a subchannel in or out of a set, whatever multipliers make it worth


@dataclass
class Refuter:
    """What was found of a band so far, which the next proof starts from.

    Args:
        hertz, back_unit: what the rates of a problem are counted in, there (Hz) and back (bit/s).
        owner_M: owners that do well.
        known: prices that proved something, the last first.
        iterations, programs: how much may be spent on a proof, and on linear programs in all.
    """

    hertz: float
    owner_M: IntArray
    known: list[Prices]
    iterations: int
    programs: int
    packing_weight_M1: Array | None = None
    back_unit: float = 1.0
    strongest: Strongest | None = None

    def at_once(self, problem: BandProblem, delay_s: float) -> Json | None:
        """A proof, from what is known or by counting, that no allocation meets a delay; None where none is found."""
        for prices in (*self.known, self._counting(problem, delay_s)):
            if proof := self._priced(problem, delay_s, prices):
                return proof
        return self._packed(problem, delay_s, self.packing_weight_M1)

    def latest(self, problem: BandProblem, low_s: float, goal_s: float, halvings: int = 0) -> tuple[float, Json | None]:
        """The largest delay found up to a goal that no allocation meets, and its proof; `low_s` where there is none."""
        if not goal_s > low_s:
            return low_s, None
        if proof := self.at_once(problem, goal_s) or self._searched(problem, low_s, goal_s):
            return goal_s, proof
        low_s, found = self._by_known(problem, low_s, goal_s)
        high_s = goal_s
        for _ in range(halvings if is_small(problem) else 0):
            middle_s = 0.5 * (low_s + high_s)
            if proof := self.at_once(problem, middle_s) or self._program(problem, middle_s, self.known[0]):
                low_s, found = middle_s, proof
            else:
                high_s = middle_s
        return low_s, found

    def _counting(self, problem: BandProblem, delay_s: float) -> Prices:
        """Even prices, and for each client the largest number of subchannels with which it cannot meet a delay."""
        K, M = problem.log_KM.shape
        if self.strongest is None:
            self.strongest = strongest_uplink(problem)
        most = enough_columns(K, M)
        sends = problem.need_K > 0
        rate_K = np.where(sends, problem.need_K / np.where(sends, delay_s - problem.ready_K, 1.0), 0.0)
        count_K = np.sum(self.strongest.rates(most) < rate_K[:, None], axis=1)
        if len(problem.ask_K):
            back_KJ = np.cumsum(strongest(problem.back_KM, most), axis=1)
            count_K = np.maximum(count_K, np.sum(back_KJ < problem.ask_K[:, None], axis=1))
        weight_M1 = np.append(np.full(M, (1 - _FAINT) / M), _FAINT)
        level_K2 = np.ones((K, 2))
        return Prices(weight_M1, count_K.astype(np.int64), level_K2, level_K2.copy(), np.zeros((K, 2)))

    def _by_known(self, problem: BandProblem, low_s: float, goal_s: float) -> tuple[float, Json | None]:
        """The largest delay up to a goal that known prices, or even ones, prove impossible."""
        found = None
        for prices in (*self.known, uniform_prices(problem, self.owner_M, low_s, goal_s)):
            proved_s = provable_delay(problem, copy_prices(prices), low_s, goal_s)
            for share in (1e-6, 1e-4, 1e-2):
                delay_s = proved_s - share * (proved_s - low_s)
                if delay_s > low_s and (proof := self._priced(problem, delay_s, prices)):
                    low_s, found = delay_s, proof
                    break
        return low_s, found

    def _searched(self, problem: BandProblem, low_s: float, goal_s: float) -> Json | None:
        """A proof from prices that are moved, or by linear programs."""
        prices = copy_prices(self.known[0]) if self.known else uniform_prices(problem, self.owner_M, low_s, goal_s)
        last_s = float(np.max(problem.ready_K[problem.need_K > 0]))
        proved_s = provable_delay(problem, prices, max(low_s, last_s), goal_s)
        if proved_s < goal_s:
            step_s = goal_s - proved_s
            raise_bound(problem, prices, proved_s, goal_s, step_s, 0.01 * step_s, self.iterations)
        if proof := self._priced(problem, goal_s, prices):
            return proof
        self.known = self.known or [prices]
        return self._program(problem, goal_s, prices) if is_small(problem) else None

    def _program(self, problem: BandProblem, delay_s: float, prices: Prices) -> Json | None:
        """A proof from linear programs, while any are left."""
        if self.programs <= 0:
            return None
        start_M1 = prices.weight_M1 if self.packing_weight_M1 is None else self.packing_weight_M1
        packing = pack(problem, start_M1, self.owner_M, delay_s)
        self.programs -= packing.programs + 1
        proof = self._packed(problem, delay_s, packing.weight_M1)
        if proof:
            self.packing_weight_M1 = packing.weight_M1
        return proof

    def _priced(self, problem: BandProblem, delay_s: float, prices: Prices) -> Json | None:
        """The proof by given prices, split by the size of sets; None where they do not prove it."""
        prices = copy_prices(prices)
        problem = problem._replace(vital=NO_VITAL, vital_back=NO_VITAL)  # Multipliers prove it without these, or not.
        over, _, nu_K2 = excess(problem, prices, delay_s)
        if not over > -0.5:  # far from it; near it, another count may do
            return None
        alpha_K2 = (prices.dearer_K2 - 1.0) * (prices.weight_M1[-1] / problem.total_w)
        delta_K2 = prices.back_price_K2 if len(problem.ask_K) else np.zeros((len(problem.need_K), 2))
        clients: list[Json | None] = [None] * len(problem.need_K)
        total = 0.0
        for k in np.flatnonzero(problem.need_K > 0).tolist():
            multiplier_23 = np.stack((nu_K2[k], alpha_K2[k], delta_K2[k]), axis=1)
            count, value = _best_count(problem, prices.weight_M1, k, delay_s, multiplier_23)
            few, many = (self.multipliers(multiplier_3) for multiplier_3 in multiplier_23)
            at_ends = {0: many, len(prices.weight_M1) - 1: few}
            clients[k] = at_ends.get(count, {"count": count, "few": few, "many": many})
            total += value
        if not total > float(np.sum(prices.weight_M1)) * (1 + _MARGIN):
            return None
        self.known = [prices, *(p for p in self.known if not np.array_equal(p.weight_M1, prices.weight_M1))][:KNOWN]
        return self._leaf(prices.weight_M1, clients)

    def _packed(self, problem: BandProblem, delay_s: float, weight_M1: Array | None) -> Json | None:
        """The proof by given prices with the exact cost of the clients' cheapest sets; None where it is not enough."""
        if weight_M1 is None:
            return None
        weight_M1 = weight_M1 * np.count_nonzero(problem.need_K > 0)  # the size for which tolerances are made
        value_K, set_KM, _, _ = cheapest_sets(problem, weight_M1, delay_s, _MOST_SETS)
        enough = float(np.sum(weight_M1)) * (1 + _MARGIN)
        value_K = np.minimum(value_K, 2 * enough)  # where a client cannot meet it at all, more than enough is enough
        total = float(np.sum(value_K))
        if not total > enough:
            return None
        clients: list[Json | None] = [None] * len(value_K)
        spare = total - enough
        senders = np.flatnonzero(problem.need_K > 0)
        for done, k in enumerate(senders[np.argsort(np.sum(set_KM[senders], axis=1), kind="stable")].tolist()):
            target = float(value_K[k]) - 0.9 * spare / (len(senders) - done)
            cases = Cases(self.multipliers, problem, weight_M1, k, delay_s, target)
            clients[k] = cases.by_size(int(np.sum(set_KM[k])))
            if clients[k] is None:
                return None
            spare -= max(float(value_K[k]) - cases.reached, 0.0)
        return self._leaf(weight_M1, clients)

    def _leaf(self, weight_M1: Array, clients: list[Json | None]) -> Json:
        return {"subchannels": weight_M1[:-1].tolist(), "power": float(weight_M1[-1]), "clients": clients}

    def multipliers(self, multiplier_3: Array) -> Json:
        """Multipliers on a rate (per bit/s), on a cap (per watt) and on the way back (per bit/s)."""
        nu, alpha, delta = multiplier_3.tolist()
        return {"multipliers": [nu / self.hertz, max(alpha, 0.0), delta / self.back_unit]}


@dataclass(frozen=True)
class Ways:
    """A band's uplink, and what follows the server's answer: the way back, where it takes time, and work."""

    uplink: BandProblem
    after_s_K: Array
    back: BothWays | None

    def problem(self, down_s: float | None) -> BandProblem:
        """The uplink of owners with which the way back ends in time; of all owners where none is given."""
        return self.uplink if self.back is None or down_s is None else self.back.problem(down_s)

    def climbed(self, refuter: Refuter, up_s: float, goal_s: float, halvings: int) -> tuple[float, list[Json]]:
        """No owners have both ways done sooner (s), up to a goal; and the pairs of times that prove it.

        `up_s` is what the search proved of the uplink alone.
        """
        start_up_s, start_s = float(np.max(self.uplink.ready_K)), float(np.max(self.after_s_K))
        listed: list[Json] = []
        if not np.any(self.uplink.need_K > 0) or start_up_s + start_s >= goal_s:
            return start_up_s + start_s, listed

        def note(up_s: float, down_s: float | None, proof: Json | None) -> bool:
            if proof is not None:
                listed.append({"up_s": up_s, "down_s": down_s, "proof": proof})
            return proof is not None

        alone_s = goal_s - start_s if self.back is None else min(goal_s - start_s, up_s * _SAFE)
        up_s, proof = refuter.latest(self.problem(None), start_up_s, alone_s, _HALVINGS)
        note(up_s, None, proof)
        if self.back is None:
            return start_s + up_s, listed
        refuter.back_unit = self.back.unit
        first_s, enough_s = self.back.least_down_s * _COUNTED, goal_s - start_s
        if (
            first_s > start_s
            and enough_s > up_s
            and note(enough_s, first_s, refuter.at_once(self.problem(first_s), enough_s))
        ):
            start_s = first_s
        parts = [(start_s + up_s, start_s, max(goal_s - up_s, start_s), up_s)]
        while parts and halvings > 0 and parts[0][2] - parts[0][1] > _NARROW * goal_s:
            bound_s, start_s, end_s, up_s = heapq.heappop(parts)
            enough_s = goal_s - start_s
            halvings -= 1
            if bound_s >= goal_s or note(enough_s, end_s, refuter.at_once(self.problem(end_s), enough_s)):
                continue
            middle_s = 0.5 * (start_s + end_s)
            found_s, proof = refuter.latest(self.problem(middle_s), up_s, enough_s)
            note(found_s, middle_s, proof)
            heapq.heappush(parts, (start_s + found_s, start_s, middle_s, found_s))
            heapq.heappush(parts, (middle_s + up_s, middle_s, end_s, up_s))
        return min([goal_s, *(part[0] for part in parts)]), listed


@dataclass
class Cases:
    """The search for a proof that a client's sets cost no less than a target; how its multipliers are written."""

    written: Callable[[Array], Json]
    problem: BandProblem
    weight_M1: Array
    client: int
    delay_s: float
    target: float
    slow: Slow = NOT_SLOW
    left: int = _CASES
    reached: float = np.inf  # the least that is proved in any case

    def by_size(self, size: int) -> Json | None:
        """The proof with sets smaller than a size apart; None where the target is not reached."""
        many = self._proof(self.weight_M1, max(size, 1), True)
        if size <= 1 or many is None:
            return many
        few = self._proof(self.weight_M1, size - 1, False)
        return few and {"count": size - 1, "few": few, "many": many}

    def plain(self) -> Json:
        """The proof by one set of multipliers, whatever it reaches."""
        _, multiplier_3, _ = client_prices(self.problem, self.weight_M1, self.client, self.delay_s, 1, True, self.slow)
        self.reached = self._value(self.weight_M1, 1, True, multiplier_3)
        return self.written(multiplier_3)

    def _proof(self, case_M1: Array, n: int, more: bool) -> Json | None:
        """The proof for sets of at most n (or at least n) subchannels, those that the weights keep in or out apart."""
        _, multiplier_3, share_M = client_prices(self.problem, case_M1, self.client, self.delay_s, n, more, self.slow)
        value = self._value(case_M1, n, more, multiplier_3)
        if value >= self.target:
            self.reached = min(self.reached, value)
            return self.written(multiplier_3)
        i = self._most_open(case_M1, share_M)
        self.left -= 1
        if i < 0 or self.left < 0:
            return None
        proof: Json = {"subchannel": i}
        for name, by in (("has", -_SURE), ("lacks", _SURE)):
            kept_M1 = case_M1.copy()
            kept_M1[i] += by
            found = self._proof(kept_M1, n, more)
            if found is None:
                return None
            proof[name] = found
        return proof

    def _value(self, case_M1: Array, n: int, more: bool, multiplier_3: Array) -> float:
        """What multipliers prove of the sets of a case."""
        free, cost_M = reduced_costs_of(
            self.problem, self.weight_M1, self.client, self.delay_s, multiplier_3, self.slow
        )
        has_M, lacks_M = case_M1[:-1] < -0.5 * _SURE, case_M1[:-1] > 0.5 * _SURE
        left = n - int(np.sum(has_M))
        rest_M = np.sort(cost_M[~has_M & ~lacks_M & (self.problem.log_KM[self.client] > NO_GAIN_LOG2)])
        value = free + float(np.sum(cost_M[has_M]))
        if not more:
            return value + float(np.sum(np.minimum(rest_M[: max(left, 0)], 0.0)))
        if left > len(rest_M):
            return np.inf
        left = max(left, 0)
        return value + float(np.sum(rest_M[:left]) + np.sum(np.minimum(rest_M[left:], 0.0)))

    def _most_open(self, weight_M1: Array, share_M: Array) -> int:
        """The strongest subchannel that is partly in the cheapest sets, or is in them, or is left; -1 where none is."""
        log_M = self.problem.log_KM[self.client]
        open_M = (log_M > NO_GAIN_LOG2) & (np.abs(weight_M1[:-1]) < 0.5 * _SURE)
        partly_M = (share_M > 1e-9) & (share_M < 1 - 1e-9)
        for wanted_M in (open_M & partly_M, open_M & (share_M > 0), open_M):
            if np.any(wanted_M):
                return int(np.argmax(np.where(wanted_M, log_M, -np.inf)))
        return -1


def _best_count(
    problem: BandProblem, weight_M1: Array, k: int, delay_s: float, multiplier_23: Array
) -> tuple[int, float]:
    """The count at which splitting client k's sets by size bounds their cost best, and that bound."""
    heard_M = problem.log_KM[k] > NO_GAIN_LOG2
    sides: list[tuple[Array, Array]] = []
    for multiplier_3 in multiplier_23:
        free, cost_M = reduced_costs_of(problem, weight_M1, k, delay_s, multiplier_3, NOT_SLOW)
        cost_M = np.sort(np.where(heard_M, cost_M, 1e9))
        forced_M1 = np.concatenate(([0.0], np.cumsum(cost_M)))
        wanted_M1 = np.concatenate(([0.0], np.cumsum(np.minimum(cost_M, 0.0))))
        sides.append((free + wanted_M1, free + forced_M1 + wanted_M1[-1] - wanted_M1))
    few_M1, many_M1 = sides[0][0].copy(), sides[1][1]
    few_M1[0] = np.inf  # Without a subchannel no rate is met.
    value_M1 = np.minimum(few_M1, np.append(many_M1[1:], np.inf))
    count = int(np.argmax(value_M1))
    return count, float(value_M1[count])
