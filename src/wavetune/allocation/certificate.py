"""Certificate of a plan's lower bound: proofs that anybody can check without a search.

For every allowed cut and rank, and for a bit of adapters, it lists pairs of times, of which each is proved to be too
early: the last client is not heard by the first and, from the server's answer on, done by the second. No plan has both
ways together below the least sum of times that is not ruled out. `refutation` finds the proofs, starting from the
prices of the search; where it finds less than the search did, the certificate's bound is below the plan's.
`tools/verify_plan.py` checks it.
Shape suffixes: K clients.
"""

from __future__ import annotations

import time

import numpy as np

from wavetune.allocation.band import Incumbent
from wavetune.allocation.cut_certificate import own_choices_certificate
from wavetune.allocation.effort import Clock
from wavetune.allocation.feasibility import check_feasible, hall_violator, pairs_within_memory
from wavetune.allocation.given_cuts import GivenCutsSearch, Setting, search_given, settings_of
from wavetune.allocation.instance import Json
from wavetune.allocation.per_client import plan_per_client
from wavetune.allocation.plan import Plan, infeasible
from wavetune.allocation.problem import BoolArray, Problem, RadioBand
from wavetune.allocation.refutation import KNOWN, Refuter, Ways

_SAFE = 1 - 1e-9
_NEVER_S = 1e200  # than which no plan is slower


@np.errstate(over="ignore")
def plan_with_certificate(problem: Problem, time_limit_s: float | None = None) -> tuple[Plan, Json]:
    """The plan of one rank and one cut, of all or of each client, and its certificate; empty where there is no plan."""
    if problem.cut_per_client or problem.share_server:
        clock = Clock(np.inf if time_limit_s is None else time.monotonic() + time_limit_s)
        plan = plan_per_client(problem, None if time_limit_s is None else 0.5 * time_limit_s)
        return plan, own_choices_certificate(problem, plan, clock) if plan.status == "ok" else {}
    feasible = check_feasible(problem)
    if not feasible.pairs:
        return infeasible(feasible.reason), {}
    search = search_given(problem, feasible.pairs, time_limit_s)
    plan = search.best_plan()
    return plan, _certificate(search, plan)


def _certificate(search: GivenCutsSearch, plan: Plan) -> Json:
    problem = search.problem
    fed_s, fed = _of_adapters(search)
    best = search.incumbents[search.best]
    refuter = _refuter(search, problem.main, [best, *search.incumbents.values()])
    lower_s = plan.lower_bound_s
    beside_s, pairs = _without_plan(search, fed_s)
    lower_s = min(lower_s, beside_s)
    for i in sorted(range(len(search.settings)), key=lambda i: i != search.best):
        pair = search.settings[i]
        goal_s = pair.step_s(lower_s, fed_s)
        ways = Ways(pair.uplink, pair.ways.after_s_K, pair.ways if problem.price_downlink else None)
        step_s, listed = ways.climbed(refuter, search.bounds_s[i], goal_s * (1 + 1e-12), search.effort.halvings)
        lower_s = min(lower_s, pair.delay_s(step_s, fed_s) * _SAFE)
        pairs.append({**_named(pair), "refuted": listed})
    return {"lower_bound_s": lower_s, "fed": fed, "pairs": pairs}


def _without_plan(search: GivenCutsSearch, fed_s: float) -> tuple[float, list[Json]]:
    """The pairs of cut and rank that fit the memories and have no plan: none has one below (s), and what shows it."""
    problem, known = search.problem, {(*_named(pair).values(),) for pair in search.settings}
    others = [pair for pair in pairs_within_memory(problem) if pair not in known]
    lower_s, listed = np.inf, list[Json]()
    for pair in settings_of(search.evaluator, others) if others else ():
        proof = _never(problem.main, pair.uplink.need_K > 0)
        if not proof and not (pair.fed_bits > 0 and search.fed_incumbent is None):
            start_s = float(np.max(pair.uplink.ready_K)) + float(np.max(pair.ways.after_s_K))
            lower_s = min(lower_s, pair.delay_s(start_s, fed_s) * _SAFE)
        listed.append({**_named(pair), "refuted": proof})
    return lower_s, listed


def _named(pair: Setting) -> Json:
    """The cut and the rank that all clients have."""
    return {"cut": int(pair.options.cut_KC[0, 0]), "rank": int(pair.options.rank_K[0])}


def _never(band: RadioBand, sends_K: BoolArray) -> list[Json]:
    """The proof that those who send are never all heard: more of them share subchannels than there are of these."""
    senders, usable_KM = np.flatnonzero(sends_K), band.snr_per_w_KM > 0
    crowd, _ = hall_violator(usable_KM[senders])
    if not len(crowd):
        return []
    price_M = np.any(usable_KM[senders[crowd]], axis=0).astype(float)
    free: Json = {"multipliers": [0.0, 0.0, 0.0]}
    proof = {"subchannels": price_M.tolist(), "power": 0.5, "clients": [free] * len(sends_K)}
    return [{"up_s": _NEVER_S, "down_s": None, "proof": proof}]


def _of_adapters(search: GivenCutsSearch) -> tuple[float, list[Json]]:
    """Both ways of a bit of adapters: no sooner done than (s), and what shows it."""
    problem, incumbent, uplink = search.problem, search.fed_incumbent, search.fed_problem
    if incumbent is None:  # all pairs that have a plan send no adapters
        listed = _never(problem.fed, np.ones(problem.num_clients, dtype=bool))
        return _NEVER_S if listed else 0.0, listed
    goal_s = search.fed_two_ways.bound_s if search.fed_two_ways else incumbent.bound_s + search.fed_down_s
    ways = Ways(uplink, np.zeros(problem.num_clients), search.fed_ways if problem.price_downlink else None)
    refuter = _refuter(search, problem.fed, [incumbent])
    return ways.climbed(refuter, incumbent.bound_s, goal_s * _SAFE, search.effort.halvings)


def _refuter(search: GivenCutsSearch, band: RadioBand, incumbents: list[Incumbent]) -> Refuter:
    """What starts from the prices of a band that the search found."""
    best, effort = incumbents[0], search.effort
    known = {id(one.prices): one.prices for one in incumbents if one.prices is not None}
    return Refuter(
        hertz=band.effective_hz,
        owner_M=best.owner_M,
        known=list(known.values())[:KNOWN],
        iterations=effort.iterations,
        programs=effort.programs,
        packing_weight_M1=best.packing_weight_M1,
    )
