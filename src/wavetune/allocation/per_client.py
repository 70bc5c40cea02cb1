"""The planner where clients may differ: a cut per client, a rank per client, shares of the server, or given decisions.

Mixed ranks never lower the delay: all clients at the least of them need no more rounds, compute, bits or memory. So the
search has one rank for all, and `rank_slack` says how much of the delay may be given up to raise single ones.
Shape suffixes: K clients, M subchannels, C cuts.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from wavetune.allocation.band import first_incumbent
from wavetune.allocation.decision import Decision, Evaluator, Options, fixed_options, options_of
from wavetune.allocation.decision_search import DecisionSearch
from wavetune.allocation.effort import Clock, effort_of
from wavetune.allocation.feasibility import check_feasible, why_infeasible
from wavetune.allocation.given_cuts import plan_common_cut, search_given
from wavetune.allocation.plan import Plan, infeasible
from wavetune.allocation.problem import IntArray, Problem


def plan_per_client(
    problem: Problem, time_limit_s: float | None = None, warm_start: Plan | None = None, packs: bool = True
) -> Plan:
    """Plan with what the problem leaves to single clients; never worse than where less of it is left to them.

    Args:
        problem: what to plan; `cut_per_client`, `rank_slack` and `share_server` say what may differ.
        time_limit_s: stop about then; half of it is for the best plan of a simpler problem, from which the search
            starts: with a server that is not shared and, unless both are asked for, one cut for all.
        warm_start: plan of a similar problem, whose decisions are tried too, with a small part of the usual effort.
        packs: whether cuts of the clients' own are packed, which takes most of the time.
    """
    clock = Clock(np.inf if time_limit_s is None else time.monotonic() + time_limit_s)
    both = problem.cut_per_client and problem.share_server
    plain = replace(problem, share_server=False, cut_per_client=both, rank_slack=None)
    common_s = None if time_limit_s is None else 0.5 * time_limit_s
    # where clients may differ, what one cut for all could still gain matters only if the search ends no better
    closes = common_s is not None or warm_start is not None or not (problem.cut_per_client or problem.share_server)
    if both:
        common = plan_per_client(plain, common_s, warm_start, packs=False)
    else:
        common = plan_common_cut(plain, common_s, warm_start, closes)
    if common.status != "ok" and problem.cut_per_client:
        common = _with_few_senders(problem) or common
    if common.status != "ok":
        return common
    if not problem.cut_per_client and not problem.share_server:
        plan, evaluator = common, Evaluator(problem)
    else:
        evaluator = Evaluator(problem)
        first = _decision(evaluator, common)
        warm = [_decision(evaluator, warm_start)] if warm_start is not None and _fits(problem, warm_start) else []
        effort = effort_of(problem.main.gain_KM.size, warm_start is not None)
        effort = effort if packs else replace(effort, programs=0)
        if problem.price_downlink and time_limit_s is None:  # other owners, from which other cuts may pay
            one_way = plan_common_cut(replace(plain, price_downlink=False, cut_per_client=False), common_s, warm_start)
            warm += [_decision(evaluator, one_way)] if one_way.status == "ok" else []
        known = [first]
        if both and time_limit_s is None and warm_start is None:
            one_cut = plan_per_client(replace(problem, cut_per_client=False, rank_slack=None))
            known += [_decision(evaluator, one_cut)] if one_cut.status == "ok" else []
        warm += known[1:]
        search = DecisionSearch(evaluator, _option_sets(problem), first, effort, clock)

        def packed() -> list[Decision]:
            """The thorough plan of a server that is not shared, unless the first plan with shares beats them all."""
            if (
                not both
                or time_limit_s is not None
                or warm_start is not None
                or search.best.delay_s <= common.lower_bound_s
            ):
                return []
            known.append(_decision(evaluator, plan_per_client(plain)))
            return known[-1:]

        search.run(warm, packed)
        if packs and not both and not closes and search.best.delay_s > common.lower_bound_s:
            one_for_all = plan_common_cut(plain)
            known += [_decision(evaluator, one_for_all)] if one_for_all.status == "ok" else []
        # where rates grow in steps the search compares least concave rates above them, and plans by the steps
        plans = [search.plan(), *(replace(evaluator.plan_of(one), lower_bound_s=0.0) for one in known)]
        plan = min(plans, key=lambda p: p.delay_s)
        plan = replace(plan, lower_bound_s=min(search.lower_bound_s, plan.delay_s))
    return plan if problem.rank_slack is None else _raise_ranks(evaluator, plan, problem.rank_slack)


def plan_decision(
    problem: Problem,
    cut_K: IntArray,
    rank_K: IntArray,
    time_limit_s: float | None = None,
    warm_start: Plan | None = None,
) -> Plan:
    """Plan of given cuts and ranks, one per client, with a bound that holds for these."""
    if reason := why_infeasible(problem, cut_K, rank_K):
        return infeasible(reason)
    warm_start = warm_start if warm_start is not None and _shaped(problem, warm_start) else None
    if not problem.share_server:
        return search_given(problem, [(cut_K, rank_K)], time_limit_s, warm_start).best_plan()
    clock = Clock(np.inf if time_limit_s is None else time.monotonic() + time_limit_s)
    evaluator, options = Evaluator(problem), fixed_options(problem, cut_K, rank_K)
    band_problems = (
        (evaluator.main, evaluator.main_problem(options)),
        (evaluator.fed, evaluator.fed_problem(options)),
    )
    owners = [
        first_incumbent(tables, band_problem).owner_M
        if np.any(band_problem.need_K > 0)
        else np.full(tables.band.num_subchannels, -1)
        for tables, band_problem in band_problems
    ]
    first = evaluator.decide(options, owners[0], owners[1])
    warm: list[Decision] = []
    if warm_start is not None:
        warm = [evaluator.decide(options, warm_start.main.owner_M, warm_start.fed.owner_M, warm_start.server_share_K)]
    search = DecisionSearch(evaluator, [options], first, effort_of(problem.main.gain_KM.size, bool(warm)), clock)
    search.run(warm)
    return search.plan()


def _with_few_senders(problem: Problem) -> Plan | None:
    """A first plan where cuts at which nothing is sent spare single clients a subchannel that they cannot all have."""
    for option_set in _option_sets(problem):
        main_KC, fed_KC = (bits_KC > 0 for bits_KC in (option_set.up_bits_KC, option_set.fed_bits_KC))
        for more_KC, less_KC in ((main_KC, fed_KC), (fed_KC, main_KC)):
            sends_KC = np.where(option_set.allowed_KC, 2 * more_KC + less_KC, 4)
            options = option_set.of(np.argmin(sends_KC, axis=1))
            plan = plan_decision(problem, options.cut_KC[:, 0], options.rank_K)
            if plan.status == "ok":
                return plan
    return None


def _option_sets(problem: Problem) -> list[Options]:
    if problem.cut_per_client:
        option_sets = [options_of(problem, rank) for rank in problem.ranks]
        return [option_set for option_set in option_sets if np.all(np.any(option_set.allowed_KC, axis=1))]
    return [fixed_options(problem, cut, rank) for cut, rank in check_feasible(problem).pairs]


def _decision(evaluator: Evaluator, plan: Plan) -> Decision:
    options = fixed_options(evaluator.problem, plan.cut_K, plan.rank_K)
    return evaluator.decide(options, plan.main.owner_M, plan.fed.owner_M, plan.server_share_K)


def _shaped(problem: Problem, plan: Plan) -> bool:
    """Whether a plan is for as many clients and subchannels."""
    bands = ((problem.main, plan.main), (problem.fed, plan.fed))
    same = all(band.num_subchannels == len(allocation.owner_M) for band, allocation in bands)
    return plan.status == "ok" and len(plan.cut_K) == problem.num_clients and same


def _fits(problem: Problem, plan: Plan) -> bool:
    """Whether a plan's decisions are among those allowed: with one rank, and one cut where clients must not differ."""
    allowed = _shaped(problem, plan) and set(plan.cut_K) <= set(problem.cuts) and set(plan.rank_K) <= set(problem.ranks)
    alike = np.ptp(plan.rank_K) == 0 and (problem.cut_per_client or np.ptp(plan.cut_K) == 0) if allowed else False
    return bool(alike) and not why_infeasible(problem, plan.cut_K, plan.rank_K)


def _raise_ranks(evaluator: Evaluator, plan: Plan, slack: float) -> Plan:
    """Raise single clients' ranks, whoever computes and sends soonest first, while the delay stays within the slack.

    The owners of the subchannels stay. The delay counts the rounds of the slowest learner and a server whose adapters
    have the largest rank.
    """
    problem, limit_s, rank_K = evaluator.problem, plan.delay_s * (1 + slack), plan.rank_K.copy()
    soonest = np.argsort(plan.phases.client_forward_s[0] + plan.phases.fed_upload_s, kind="stable")

    def raised(rank: int, count: int) -> Plan:
        tried_K = rank_K.copy()
        tried_K[soonest[:count]] = rank
        options = fixed_options(problem, plan.cut_K, tried_K)
        return evaluator.plan_of(evaluator.decide(options, plan.main.owner_M, plan.fed.owner_M, plan.server_share_K))

    best = plan
    for rank in problem.ranks:
        low, high = 0, problem.num_clients if rank > rank_K.min() else 0
        while low < high:
            count = (low + high + 1) // 2
            tried = raised(rank, count)
            fits = tried.delay_s <= limit_s and not why_infeasible(problem, tried.cut_K, tried.rank_K)
            low, high = (count, high) if fits else (low, count - 1)
        if low > 0:
            best = raised(rank, low)
            rank_K = best.rank_K.copy()
    return replace(best, lower_bound_s=plan.lower_bound_s)
