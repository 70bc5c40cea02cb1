"""The paper's greedy: block-coordinate descent over subchannels, power, and cut with rank. Our reference baseline.

Source: SflLLM (arXiv 2504.14667), the order of the blocks is our reconstruction.
"""

from __future__ import annotations

import numpy as np

from wavetune.allocation.cut_and_rank import best_cut_and_rank, with_best_power
from wavetune.allocation.delay import load_of
from wavetune.allocation.feasibility import check_feasible
from wavetune.allocation.plan import Plan, infeasible
from wavetune.allocation.problem import IntArray, Problem
from wavetune.allocation.subchannels import greedy_subchannels


def plan_sflllm(problem: Problem, max_iterations: int = 10, tolerance: float = 1e-6, whole_band: bool = False) -> Plan:
    """Plan by the paper's alternating optimisation; `lower_bound_s` is the trivial 0.

    Greedy subchannels for the present cut and rank, exact powers, exhaustive search of cut and rank, and again; the
    best iterate is kept, as the greedy step is not monotone.

    Args:
        problem: what to plan.
        max_iterations: at most so many rounds of the three blocks.
        tolerance: relative improvement below which it stops.
        whole_band: hand out all subchannels, also to clients whose equal shares would exceed their caps.

    Returns:
        The best plan met, or an infeasible one.
    """
    feasible = check_feasible(problem)
    if not feasible.pairs:
        return infeasible(feasible.reason)
    (cut, rank), best = feasible.pairs[0], None
    for _ in range(max_iterations):
        main_owner_M, fed_owner_M = greedy_owners(problem, cut, rank, whole_band)
        plan = with_best_power(problem, cut, rank, main_owner_M, fed_owner_M)
        plan = min(plan, best_cut_and_rank(problem, main_owner_M, fed_owner_M, feasible.pairs), key=lambda p: p.delay_s)
        if best is not None and plan.delay_s >= best.delay_s * (1 - tolerance):
            return min(plan, best, key=lambda p: p.delay_s)
        best, cut, rank = plan, int(plan.cut_K[0]), int(plan.rank_K[0])
    assert best is not None
    return best


def greedy_owners(
    problem: Problem, cut: IntArray | int, rank: IntArray | int, whole_band: bool = False
) -> tuple[IntArray, IntArray]:
    """Greedy owners of both bands: slow clients choose first in the main band, weak ones in the fed band."""
    load, cap_w_K = load_of(problem, cut, rank), problem.tx_power_max_w_K
    speed_K = problem.client_flop_per_s_K
    ready_s_K = load.client_forward_flop_IK[0] / speed_K
    main = greedy_subchannels(problem.main, ready_s_K, load.uplink_bits_IK[0], cap_w_K, speed_K, whole_band)
    best_gain_K, at_once_K = problem.fed.gain_KM.max(axis=1), np.zeros(problem.num_clients)
    return main, greedy_subchannels(problem.fed, at_once_K, load.fed_upload_bits_K, cap_w_K, best_gain_K, whole_band)
