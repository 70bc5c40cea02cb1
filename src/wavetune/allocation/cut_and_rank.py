"""Exhaustive search of cut and rank, each pair with its own exact power step, for given owners."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wavetune.allocation.delay import load_of
from wavetune.allocation.plan import Allocation, Plan, make_plan
from wavetune.allocation.power import allocate_power
from wavetune.allocation.problem import IntArray, Problem


def best_cut_and_rank(
    problem: Problem, main_owner_M: IntArray, fed_owner_M: IntArray, pairs: Sequence[tuple[int, int]]
) -> Plan:
    """Best plan over `pairs` of (cut, rank) with optimal powers on the given owners."""
    plans = [with_best_power(problem, cut, rank, main_owner_M, fed_owner_M) for cut, rank in pairs]
    return min(plans, key=lambda plan: plan.delay_s)


def with_best_power(
    problem: Problem, cut: IntArray | int, rank: IntArray | int, main_owner_M: IntArray, fed_owner_M: IntArray
) -> Plan:
    """Plan of one cut and rank, or one per client, with optimal powers on the given owners."""
    main, fed = powers(problem, cut, rank, main_owner_M, fed_owner_M)
    return make_plan(problem, cut, rank, main, fed)


def powers(
    problem: Problem, cut: IntArray | int, rank: IntArray | int, main_owner_M: IntArray, fed_owner_M: IntArray
) -> tuple[Allocation, Allocation]:
    """Optimal powers of both bands on the given owners; the bands do not couple."""
    load = load_of(problem, cut, rank)
    cap_w_K = problem.tx_power_max_w_K
    ready_s_K = load.client_forward_flop_IK[0] / problem.client_flop_per_s_K
    main, _ = allocate_power(problem.main, main_owner_M, ready_s_K, load.uplink_bits_IK[0], cap_w_K)
    at_once_K = np.zeros(problem.num_clients)
    fed, _ = allocate_power(problem.fed, fed_owner_M, at_once_K, load.fed_upload_bits_K, cap_w_K)
    return main, fed
