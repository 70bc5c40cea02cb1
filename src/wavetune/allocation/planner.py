"""The planner: the least total delay over owners, powers, cuts and ranks, with a certified lower bound.

The search imports the compiler, which takes longer than reading a recipe; so it is imported at the first plan.
Shape suffix: K clients.
"""

from __future__ import annotations

import numpy as np

from wavetune.allocation.delay import downlink_rate_bit_per_s_KM, load_of
from wavetune.allocation.feasibility import usable_subchannels
from wavetune.allocation.plan import Plan, infeasible
from wavetune.allocation.problem import BoolArray, IntArray, Problem, RadioBand
from wavetune.units import Array


@np.errstate(over="ignore")  # an infinite rate costs too much, as it should
def plan(problem: Problem, time_limit_s: float | None = None, warm_start: Plan | None = None) -> Plan:
    """Plan with the least total delay that the search finds, and a lower bound that no plan can beat.

    The outcome depends on the problem alone (and on `warm_start`), unless a time limit cuts the search short.

    Args:
        problem: what to plan.
        time_limit_s: stop about then and return the best plan so far; a first plan is always finished.
        warm_start: plan of a similar problem, such as the round before; its decisions are the start, the effort is a
            small part of the usual, and a gap of 0.1% is good enough.

    Returns:
        The plan; status "infeasible" with the binding limits where there is none.
    """
    if problem.clients_may_differ:
        from wavetune.allocation.per_client import plan_per_client as plan_it
    else:
        from wavetune.allocation.given_cuts import plan_common_cut as plan_it

    return _or_why_none(problem, plan_it(problem, time_limit_s, warm_start))


@np.errstate(over="ignore")
def plan_fixed(
    problem: Problem,
    cut_K: IntArray,
    rank_K: IntArray,
    time_limit_s: float | None = None,
    warm_start: Plan | None = None,
) -> Plan:
    """Plan of given cuts and ranks, one per client, with a bound that holds for these."""
    from wavetune.allocation.per_client import plan_decision

    return _or_why_none(problem, plan_decision(problem, cut_K, rank_K, time_limit_s, warm_start))


def _or_why_none(problem: Problem, found: Plan) -> Plan:
    """The plan, or that there is none where its delay is infinite."""
    if found.status != "ok" or np.isfinite(found.delay_s) or not np.isfinite(_computing_s(problem, found)):
        return found  # where computing takes for ever, no link is to blame
    load = load_of(problem, found.cut_K, found.rank_K)
    bands = (
        ("main", problem.main, load.uplink_bits_IK[0], load.downlink_bits_IK[0]),
        ("fed", problem.fed, load.fed_upload_bits_K, load.fed_upload_bits_K),
    )
    for name, band, up_K, down_K in bands if problem.price_downlink else ():
        for k in np.flatnonzero((down_K > 0) & ~np.any(downlink_rate_bit_per_s_KM(band) > 0, axis=1)):
            return infeasible(f"{name} band: client {k} can receive on no subchannel")
        if not _can_serve(band, problem.tx_power_max_w_K, up_K > 0, down_K > 0):
            return infeasible(
                f"{name} band: subchannels cannot be shared out so that every client can both send and receive"
            )
    if problem.main.ladder is not None or problem.fed.ladder is not None:
        return infeasible(
            "total_power_max_w does not bring every client to the least signal-to-noise ratio of its rate"
        )
    return infeasible("a client's link, up or down, carries less than can be counted")


def _can_serve(band: RadioBand, tx_power_max_w_K: Array, sends_K: BoolArray, gets_K: BoolArray) -> bool:
    """Whether any owners let them send and receive, whatever power that takes together."""
    from wavetune.allocation.owner_program import serving_owners

    power_w_KM = np.where(usable_subchannels(band, tx_power_max_w_K), 0.0, np.inf)
    return serving_owners(power_w_KM, downlink_rate_bit_per_s_KM(band) > 0, sends_K, gets_K) is not None


def _computing_s(problem: Problem, found: Plan) -> float:
    """What all computing of a plan would take one after the other, without a link (s)."""
    load = load_of(problem, found.cut_K, found.rank_K)
    at_server = np.sum(load.server_forward_flop_I + load.server_backward_flop_I) / problem.server_flop_per_s
    flop_K = np.sum(load.client_forward_flop_IK + load.client_backward_flop_IK, axis=0)
    rounds = max(problem.rounds_to_target.values()) * problem.local_steps
    return float(rounds * (at_server + np.max(flop_K / problem.client_flop_per_s_K)))
