"""Who takes part in a round: the most clients that can meet a deadline, or those that are done first.

Whoever is left out owns no subchannel, computes and sends nothing. A set of clients is judged by the plan of the
problem that they alone would have. A client less never makes a round longer, so that along any order of the clients the
longest prefix that meets a deadline is found by bisection; single clients further back are then tried one by one.
Shape suffix: K clients of the whole problem.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from wavetune.allocation.delay import load_of, transfer_s
from wavetune.allocation.feasibility import check_feasible
from wavetune.allocation.participants import problem_of
from wavetune.allocation.plan import Plan
from wavetune.allocation.problem import IntArray, Problem
from wavetune.units import Array

PlanOf = Callable[[Sequence[int]], Plan]
_FURTHER = 6


def lone_round_s(problem: Problem, cut_K: IntArray | int, rank_K: IntArray | int) -> Array:
    """Least delay of a round for each client with both bands and the server to itself (s), [K].

    It is infinite for a client that lacks memory, or a subchannel that it can use.
    """
    from wavetune.allocation.band import BandTables

    load = load_of(problem, cut_K, rank_K)
    compute_s_K = (load.client_forward_flop_IK + load.client_backward_flop_IK)[0] / problem.client_flop_per_s_K
    server_s_K = (load.server_forward_flop_IK + load.server_backward_flop_IK)[0] / problem.server_flop_per_s
    up_s_K, fed_s_K = (
        transfer_s(bits_K, band.effective_hz * BandTables(band, problem.tx_power_max_w_K).lone_rate_K)
        for band, bits_K in ((problem.main, load.uplink_bits_IK[0]), (problem.fed, load.fed_upload_bits_K))
    )
    alone_s_K = problem.local_steps * (compute_s_K + server_s_K + up_s_K) + fed_s_K
    for k, (cut, rank) in enumerate(zip(*np.broadcast_arrays(cut_K, rank_K, alone_s_K)[:2], strict=True)):
        if not check_feasible(problem_of(problem, [k]).restrict([int(cut)], [int(rank)])).pairs:
            alone_s_K[k] = np.inf
    return alone_s_K


def most_within(
    plan_of: PlanOf, deadline_s: float, lone_s_K: Array, worth_K: Array, least: int
) -> tuple[tuple[int, ...], Plan | None]:
    """The set of clients worth most, found by prefixes and single additions, whose round ends by a deadline.

    Args:
        plan_of: plan of a set of clients.
        deadline_s: of the round.
        lone_s_K: least round of each client alone; who misses the deadline even so is out.
        worth_K: what it is worth that a client takes part, such as 1 or its samples.
        least: as many take part at least, those that are done first, whether they meet the deadline or not.

    Returns:
        The clients in ascending order, and their plan; none, and no plan, where not even one client has a plan.
    """
    able = np.flatnonzero(lone_s_K <= deadline_s)
    by_time = able[np.argsort(lone_s_K[able], kind="stable")].tolist()
    by_worth = able[np.argsort(lone_s_K[able] / np.maximum(worth_K[able], 1e-300), kind="stable")].tolist()
    best, best_plan = tuple[int, ...](), None
    for order in [by_time] if by_worth == by_time else [by_time, by_worth]:
        chosen, plan = _longest_prefix(plan_of, deadline_s, order)
        for k in [k for k in order if k not in chosen][:_FURTHER]:
            more = plan_of(sorted((*chosen, k)))
            if _meets(more, deadline_s):
                chosen, plan = (*chosen, k), more
        if sum(worth_K[list(chosen)]) > sum(worth_K[list(best)]):
            best, best_plan = chosen, plan
    if len(best) >= least:
        return tuple(sorted(best)), best_plan
    return fastest(plan_of, lone_s_K, least)


def fastest(plan_of: PlanOf, lone_s_K: Array, count: int) -> tuple[tuple[int, ...], Plan | None]:
    """`count` clients (or as many as have a plan) whose round is short: the fastest alone, the last one exchanged."""
    order = np.argsort(lone_s_K, kind="stable")[: int(np.sum(np.isfinite(lone_s_K)))].tolist()
    chosen, plan = _longest_prefix(plan_of, np.inf, order[:count])
    for k in [k for k in order if k not in chosen][:_FURTHER] if plan is not None else ():
        assert plan is not None
        straggler = sorted(chosen)[plan.phases.straggler()[0]]
        other = plan_of(sorted({*chosen, k} - {straggler}))
        if other.status == "ok" and other.phases.round_s < plan.phases.round_s:
            chosen, plan = tuple({*chosen, k} - {straggler}), other
    return tuple(sorted(chosen)), plan


def _meets(plan: Plan, deadline_s: float) -> bool:
    return plan.status == "ok" and plan.phases.round_s <= deadline_s * (1 + 1e-9)


def _longest_prefix(plan_of: PlanOf, deadline_s: float, order: Sequence[int]) -> tuple[tuple[int, ...], Plan | None]:
    """The longest prefix that meets the deadline, and its plan."""
    low, high, best = 0, len(order), None
    size = high  # All of them may do.
    while low < high:
        plan = plan_of(sorted(order[:size]))
        if _meets(plan, deadline_s):
            low, best = size, plan
        else:
            high = size - 1
        size = (low + high + 1) // 2
    return tuple(order[:low]), best


def most_possible(problem: Problem, cut: int, rank: int, deadline_s: float) -> int:
    """No more clients than this can meet a deadline, by counting whole subchannels.

    Model: a client needs at least as many subchannels in each band as its strongest ones would do at its full power in
    all of the time that computing leaves; together these must not exceed the band.
    """
    load, at_most = load_of(problem, cut, rank), problem.num_clients
    own_s_K = (load.client_forward_flop_IK + load.client_backward_flop_IK)[0] / problem.client_flop_per_s_K
    left_s_K = deadline_s - problem.local_steps * own_s_K
    for band, bits_K in (
        (problem.main, problem.local_steps * load.uplink_bits_IK[0]),
        (problem.fed, load.fed_upload_bits_K),
    ):
        if not np.any(bits_K > 0):
            continue
        most_w_K = np.minimum(problem.tx_power_max_w_K, band.total_power_max_w) * (1 + 1e-6)
        best_KM = -np.sort(-band.snr_per_w_KM, axis=1)
        # Full power on each of the n strongest at once is more than any split of it would carry.
        rate_KM = np.cumsum(band.envelope_bit_per_s(best_KM * most_w_K[:, None]), axis=1)
        short_KM = rate_KM * np.maximum(left_s_K, 0.0)[:, None] < bits_K[:, None] * (1 - 1e-9)
        count_K = np.where(bits_K > 0, 1 + np.sum(short_KM, axis=1), 0)
        count_K = np.sort(count_K[(count_K <= band.num_subchannels) & (left_s_K > 0)])
        at_most = min(at_most, int(np.sum(np.cumsum(count_K) <= band.num_subchannels)))
    return at_most
