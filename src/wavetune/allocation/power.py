"""Exact powers for given owners: the least delay all clients can meet under their own caps and the total.

Problem: min t s.t. sum_{i of k} B log2(1 + p_i h_i) >= D_k / (t - a_k), sum_{i of k} p_i <= P_k, sum_i p_i <= P.
Solution: for a given t each client's least power is water-filling, p_i = [theta_k - 1/h_i]^+; that power is convex and
decreasing in t, so t is the larger of the clients' own limits and the root of the total, found by Newton's method.
A rate that grows in steps is climbed instead (`ladder`).
Source: the convex power step of SflLLM (arXiv 2504.14667); water-filling as in Cover and Thomas, section 9.4.
Shape suffixes: I local steps, K clients, M subchannels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wavetune.allocation.delay import load_of
from wavetune.allocation.plan import Allocation, Plan, make_plan
from wavetune.allocation.problem import IntArray, Problem, RadioBand
from wavetune.units import Array

if TYPE_CHECKING:
    from wavetune.allocation.water_filling import BandProblem


def allocate_power(
    band: RadioBand, owner_M: IntArray, ready_s_K: Array, bits_K: Array, tx_power_max_w_K: Array
) -> tuple[Allocation, float]:
    """Powers that minimise max_k(ready_s[k] + bits[k] / rate[k]) for given owners.

    Args:
        band: gains, noise and the cap on the total.
        owner_M: client that owns each subchannel, -1 for none.
        ready_s_K: when each client starts to send (s).
        bits_K: what it sends; a client with 0 bits sends nothing, and owns nothing unless it may receive.
        tx_power_max_w_K: each client's cap (W).

    Returns:
        The allocation, and the least max_k(ready_s[k] + bits[k] / rate[k]) over the clients that send (s): infinite
        where one of them owns no usable subchannel, minus infinity where none sends.
    """
    from wavetune.allocation.ladder import best_powers

    problem = band_problem(band, ready_s_K, bits_K, tx_power_max_w_K)
    sender_M = np.where(owner_M >= 0, np.where(problem.need_K[owner_M] > 0, owner_M, -1), -1)
    delay_s, power_w_M = best_powers(problem, sender_M)
    return Allocation(sender_M if band.downlink_gain_KM is None else owner_M, power_w_M), float(delay_s)


def band_problem(band: RadioBand, ready_s_K: Array, bits_K: Array, cap_w_K: Array) -> BandProblem:
    """The compiled functions' problem of a band, without what bounds know of it besides."""
    from wavetune.allocation.ladder import steps_of
    from wavetune.allocation.water_filling import BandProblem

    need_K, ready_K, caps_K = (
        np.asarray(x, dtype=np.float64) for x in (bits_K / band.effective_hz, ready_s_K, cap_w_K)
    )
    problem = BandProblem(
        *band.log_and_inverse_KM, ready_K, need_K, caps_K, band.total_power_max_w, float(band.envelope.most)
    )
    return problem._replace(steps=steps_of(band.ladder, band.envelope.gap, band.effective_hz))


def uniform_power(band: RadioBand, owner_M: IntArray, tx_power_max_w_K: Array) -> Allocation:
    """The same density on every subchannel, P / M, scaled down for a client whose own cap it would exceed."""
    share_w = band.total_power_max_w / band.num_subchannels
    owned_K = np.bincount(owner_M[owner_M >= 0], minlength=len(tx_power_max_w_K))
    power_w_K = np.minimum(share_w, tx_power_max_w_K / np.maximum(owned_K, 1))
    return Allocation(owner_M, np.where(owner_M >= 0, power_w_K[owner_M], 0.0))


def with_best_power(
    problem: Problem,
    cut: IntArray | int,
    rank: IntArray | int,
    main_owner_M: IntArray,
    fed_owner_M: IntArray,
    ready_s_K: Array | None = None,
) -> Plan:
    """Plan of one cut and rank, or one per client, with optimal powers on the given owners; the bands do not couple.

    Clients start to send activations after their forward passes or, for these powers, as at `ready_s_K` (s).
    """
    load, caps_w_K, at_once_K = load_of(problem, cut, rank), problem.tx_power_max_w_K, np.zeros(problem.num_clients)
    start_s_K = load.client_forward_flop_IK[0] / problem.client_flop_per_s_K if ready_s_K is None else ready_s_K
    main, _ = allocate_power(problem.main, main_owner_M, start_s_K, load.uplink_bits_IK[0], caps_w_K)
    fed, _ = allocate_power(problem.fed, fed_owner_M, at_once_K, load.fed_upload_bits_K, caps_w_K)
    return make_plan(problem, cut, rank, main, fed)
