"""The paper's greedy: block-coordinate descent over subchannels, power, and cut with rank. Our reference baseline.

Subchannels go to the straggler, its best free one each, until a client's power cap or the band is used up.
Source: SflLLM (arXiv 2504.14667) names a greedy heuristic; the steps are our reconstruction in the style of EPSL
(arXiv 2303.15991), and so is the order of the blocks. Handing out the whole band, whatever the caps, is our variant.
Shape suffixes: I local steps, K clients, M subchannels.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

import numpy as np

from wavetune.allocation.delay import load_of
from wavetune.allocation.feasibility import check_feasible, match_subchannels, usable_subchannels
from wavetune.allocation.plan import Plan, infeasible
from wavetune.allocation.power import with_best_power
from wavetune.allocation.problem import IntArray, Problem, RadioBand
from wavetune.units import Array


def best_cut_and_rank(
    problem: Problem, main_owner_M: IntArray, fed_owner_M: IntArray, pairs: Sequence[tuple[int, int]]
) -> Plan:
    """Best plan over `pairs` of (cut, rank) with optimal powers on the given owners."""
    plans = [with_best_power(problem, cut, rank, main_owner_M, fed_owner_M) for cut, rank in pairs]
    return min(plans, key=lambda plan: plan.delay_s)


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


_CAP_TOLERANCE = 1e-3  # a cap missed by less than this share, as by a level rounded to 0.01 dB, is kept


def greedy_subchannels(
    band: RadioBand,
    ready_s_K: Array,
    bits_K: Array,
    tx_power_max_w_K: Array,
    first_K: Array,
    whole_band: bool = False,
) -> IntArray:
    """Owners by the greedy heuristic under a uniform power density: that of the total power, or of all senders' own.

    Phase 1 gives each sending client, in ascending order of `first_K`, its best free subchannel. Phase 2 gives the
    client that would finish last its best free one. A client whose equal shares would exceed its own cap drops out, or
    with `whole_band` goes on at a lower density; one that no free subchannel helps drops out in any case.

    Args:
        band: gains and noise.
        ready_s_K: when each client starts to send (s).
        bits_K: what it sends.
        tx_power_max_w_K: caps (W).
        first_K: sort key of phase 1, speed or gain of the clients.
        whole_band: hand out all subchannels, whatever the caps.

    Returns:
        Owner of each subchannel, -1 where all clients dropped out before it was handed out.
    """
    share_w = min(band.total_power_max_w, float(np.sum(tx_power_max_w_K[bits_K > 0]))) / band.num_subchannels
    snr_per_w_KM = band.snr_per_w_KM
    rate_KM = band.envelope_bit_per_s(snr_per_w_KM * share_w)
    owner_M = _one_each(band, rate_KM, bits_K, tx_power_max_w_K, first_K)
    own_K = [np.flatnonzero(owner_M == k).tolist() for k in range(len(bits_K))]

    def rate_of(k: int) -> float:
        density_w = min(share_w, tx_power_max_w_K[k] / max(len(own_K[k]), 1))
        return float(band.envelope_bit_per_s(snr_per_w_KM[k, own_K[k]] * density_w).sum())

    rate_K = np.array([rate_of(k) for k in range(len(bits_K))])
    done_s_K = np.where(bits_K > 0, ready_s_K + bits_K / np.maximum(rate_K, 1e-300), -np.inf)  # of who may take more
    free_M = owner_M < 0
    for _ in range(np.count_nonzero(free_M) + len(bits_K)):
        k = int(np.argmax(done_s_K))
        if not np.any(free_M) or done_s_K[k] == -np.inf:
            break
        if not whole_band and (len(own_K[k]) + 1) * share_w > tx_power_max_w_K[k] * (1 + _CAP_TOLERANCE):
            done_s_K[k] = -np.inf
            continue
        i = int(np.argmax(np.where(free_M, rate_KM[k], -1.0)))
        bisect.insort(own_K[k], i)
        rate = rate_of(k)
        if rate <= rate_K[k]:
            own_K[k].remove(i)
            done_s_K[k] = -np.inf
            continue
        owner_M[i], free_M[i], rate_K[k] = k, False, rate
        done_s_K[k] = ready_s_K[k] + bits_K[k] / max(rate, 1e-300)
    return owner_M


def _one_each(band: RadioBand, rate_KM: Array, bits_K: Array, tx_power_max_w_K: Array, first_K: Array) -> IntArray:
    owner_M = np.full(band.num_subchannels, -1, dtype=np.int64)
    senders = np.flatnonzero(bits_K > 0)
    free_rate_KM = rate_KM.copy()
    for k in senders[np.argsort(first_K[senders], kind="stable")]:
        i = int(np.argmax(free_rate_KM[k]))
        if free_rate_KM[k, i] <= 0:
            # Earlier clients took all this one can hear: start from a matching instead.
            owner_M[:] = -1
            owner_M[match_subchannels(usable_subchannels(band, tx_power_max_w_K)[senders])] = senders
            return owner_M
        owner_M[i] = k
        free_rate_KM[:, i] = 0.0
    return owner_M
