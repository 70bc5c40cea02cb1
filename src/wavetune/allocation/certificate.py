"""Certificate of a plan's lower bound: prices and multipliers that anybody can check without a search.

For every allowed cut and rank it says by when the last activations of a step cannot have arrived, and for the fed band
how many seconds a bit of adapters takes at least; each with the prices of the claim in `prices` and the multipliers
that bound every client's cheapest bundle. What the search proved by branching is left out, so that the bound of a
certificate can be a little below the plan's. `tools/verify_plan.py` checks it.
Shape suffixes: K clients, M subchannels, M1 for the subchannels and the total power, K2 both sides of a client's sets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from wavetune.allocation.band import Incumbent, copy_prices
from wavetune.allocation.common_cut import CommonCutSearch, search_common_cut
from wavetune.allocation.dual_bound import excess, uniform_prices
from wavetune.allocation.feasibility import check_feasible
from wavetune.allocation.instance import Json
from wavetune.allocation.plan import Plan, infeasible
from wavetune.allocation.problem import Problem
from wavetune.allocation.set_packing import cheapest_sets, pack
from wavetune.allocation.water_filling import NO_STEPS, BandProblem
from wavetune.units import Array

_SAFE = 1 - 1e-9
_MARGIN = 1e-8
_HALVINGS, _NODES, _MOST_TO_PACK = 14, 2_000, 4_000


@np.errstate(over="ignore")
def plan_with_certificate(problem: Problem, time_limit_s: float | None = None) -> tuple[Plan, Json]:
    """The plan of `planner.plan` for one common cut and rank, and its certificate; empty where there is no plan."""
    feasible = check_feasible(problem)
    if not feasible.pairs:
        return infeasible(feasible.reason), {}
    search = search_common_cut(problem, feasible.pairs, time_limit_s)
    return search.best_plan(), _certificate(search)


def _certificate(search: CommonCutSearch) -> Json:
    fed_s, fed_proof = 0.0, None
    if search.fed_incumbent is not None:
        goal_s = search.fed_incumbent.bound_s * _SAFE
        fed_s, fed_proof = _proof_up_to(search.fed_problem, 0.0, goal_s, [search.fed_incumbent])
    best, plan = search.incumbents[search.best], search.best_plan()
    pairs: list[Json] = []
    lower_s = plan.lower_bound_s
    for i, pair in enumerate(search.pairs):
        incumbents = [search.incumbents[i], best] if i in search.incumbents else [best]
        at_once_s = float(np.max(pair.ready_s_K))
        goal_s = pair.main_s(plan.lower_bound_s, fed_s) * (1 + 1e-12)
        main_s, proof = _proof_up_to(search.main_problems[i], at_once_s, goal_s, incumbents)
        lower_s = min(lower_s, pair.delay_s(main_s, fed_s) * _SAFE)
        pairs.append({"cut": pair.cut, "rank": pair.rank, "main_s": main_s, "proof": proof})
    return {"lower_bound_s": lower_s, "fed_s_per_bit": fed_s, "fed_proof": fed_proof, "pairs": pairs}


def _proof_up_to(
    problem: BandProblem, low_s: float, goal_s: float, incumbents: list[Incumbent]
) -> tuple[float, Json | None]:
    """The largest delay found, from one that needs no proof up to a goal, that prices prove impossible; its proof."""
    problem = problem._replace(steps=NO_STEPS)  # a certificate is of the concave rate above them
    if not goal_s > low_s or not np.any(problem.need_K > 0):
        return low_s, None
    if proof := _proof(problem, goal_s, incumbents):
        return goal_s, proof
    first = incumbents[0]
    if first.prices is not None and problem.log_KM.size <= _MOST_TO_PACK:
        packing = pack(problem, first.prices.weight_M1, first.owner_M, goal_s)
        incumbents = [replace(first, packing_weight_M1=packing.weight_M1)]
        if proof := _proof(problem, goal_s, incumbents):
            return goal_s, proof
    found, high_s = None, goal_s
    for _ in range(_HALVINGS):
        middle_s = 0.5 * (low_s + high_s)
        if proof := _proof(problem, middle_s, incumbents):
            low_s, found = middle_s, proof
        else:
            high_s = middle_s
    return low_s, found


def _proof(problem: BandProblem, delay_s: float, incumbents: list[Incumbent]) -> Json | None:
    """Prices and multipliers with which the clients' cheapest bundles cost more than everything; None if not found."""
    for incumbent in [*incumbents, _with_even_prices(problem, incumbents[0], delay_s)]:
        for weight_M1, clients, value in _claims(problem, delay_s, incumbent):
            if value > float(np.sum(weight_M1)) * (1 + _MARGIN):
                return {"subchannels": weight_M1[:-1].tolist(), "power": float(weight_M1[-1]), "clients": clients}
    return None


def _with_even_prices(problem: BandProblem, incumbent: Incumbent, delay_s: float) -> Incumbent:
    """Prices that tell a client which cannot meet a delay with the whole band from those that can."""
    prices = uniform_prices(problem, incumbent.owner_M, 0.5 * delay_s, delay_s)
    return replace(incumbent, prices=prices, packing_weight_M1=None)


def _claims(
    problem: BandProblem, delay_s: float, incumbent: Incumbent
) -> Iterator[tuple[Array, list[Json | None], float]]:
    """Prices, what bounds each client's cheapest bundle, and the sum of these bounds."""
    rate_K = np.divide(
        problem.need_K, delay_s - problem.ready_K, out=np.zeros(len(problem.need_K)), where=problem.need_K > 0
    )
    senders = np.flatnonzero(problem.need_K > 0)
    none: list[Json | None] = [None] * len(rate_K)
    if incumbent.prices is not None:
        prices = copy_prices(incumbent.prices)
        _, _, nu_K2 = excess(problem, prices, delay_s)
        alpha_K2 = (prices.dearer_K2 - 1.0) * (prices.weight_M1[-1] / problem.total_w)
        clients, total = none.copy(), 0.0
        for k in senders:
            count, value = _best_count(problem, prices.weight_M1, int(k), float(rate_K[k]), nu_K2[k], alpha_K2[k])
            clients[k] = {"nu": nu_K2[k].tolist(), "alpha": alpha_K2[k].tolist(), "count": count}
            total += value
        yield prices.weight_M1, clients, total
    if incumbent.packing_weight_M1 is not None:
        weight_M1 = incumbent.packing_weight_M1
        value_K, _, _, multiplier_K3 = cheapest_sets(problem, weight_M1, delay_s, _NODES, False)
        clients = none.copy()
        for k in senders:
            least = min(float(value_K[k]), 2.0 * float(np.sum(weight_M1))) * (1 - _MARGIN)
            clients[k] = {"nu": [multiplier_K3[k, 0]], "alpha": [multiplier_K3[k, 1]], "least": least}
        yield weight_M1, clients, float(sum(client["least"] for client in clients if client))


def _best_count(
    problem: BandProblem, weight_M1: Array, k: int, rate: float, nu_2: Array, alpha_2: Array
) -> tuple[int, float]:
    """The count at which splitting client k's sets by size bounds their cost best, and that bound."""
    M = len(weight_M1) - 1
    sides: list[tuple[Array, Array]] = []
    for nu, alpha in zip(nu_2, alpha_2, strict=True):
        watt = float(weight_M1[-1]) / problem.total_w + alpha
        above_M = np.log2(max(nu, 1e-300)) - np.log2(watt * np.log(2.0)) + problem.log_KM[k]
        gain_M = nu * above_M - nu / np.log(2.0) + watt * problem.inverse_KM[k]
        full_w_M: Array = np.expm1(min(problem.limit, 600.0) * np.log(2.0)) * problem.inverse_KM[k]
        most_M: Array = nu * min(problem.limit, 1e300) - watt * full_w_M
        gain_M = np.asarray(np.where(above_M > problem.limit, most_M, gain_M), np.float64)
        cost_M = np.sort(np.where(problem.log_KM[k] > -1e29, weight_M1[:M] - np.where(above_M > 0, gain_M, 0.0), 1e9))
        free = nu * rate - alpha * problem.cap_w_K[k]
        forced_M1 = np.concatenate(([0.0], np.cumsum(cost_M)))
        wanted_M1 = np.concatenate(([0.0], np.cumsum(np.minimum(cost_M, 0.0))))
        sides.append((free + wanted_M1, free + forced_M1 + wanted_M1[-1] - wanted_M1))
    few_M1, many_M1 = sides[0][0].copy(), sides[1][1]
    few_M1[0] = np.inf  # Without a subchannel no rate is met.
    many_M = np.append(many_M1[1:], np.inf)
    value_M1 = np.minimum(few_M1, many_M)
    count = int(np.argmax(value_M1))
    return count, float(value_M1[count])
