"""The planner against exact set packing: every set of every client, chosen by HiGHS, where the total power is slack."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import Bounds, LinearConstraint, milp

from helpers.problems import cell_problem
from wavetune.allocation.delay import load_of
from wavetune.allocation.planner import plan

HEARD = 5


def most_rate(snr_per_w, cap_w):
    """Bit/s/Hz that water-filling buys: the best number of the strongest subchannels."""
    best = 0.0
    strongest = np.sort(snr_per_w)[::-1]
    for n in range(1, len(strongest) + 1):
        level_w = (cap_w + np.sum(1 / strongest[:n])) / n
        if level_w > 1 / strongest[n - 1]:
            best = float(np.sum(np.log2(level_w * strongest[:n])))
    return best


def least_band_delay_s(band, ready_s_K, bits_K, caps_w_K):
    """Least delay over all ways to give each client a set of subchannels, each with the client's full power."""
    K, M = band.gain_KM.shape
    columns = []
    for k in range(K):
        heard = np.flatnonzero(band.gain_KM[k] > 0)
        for size in range(1, len(heard) + 1):
            for chosen in itertools.combinations(heard, size):
                rate = band.subchannel_hz * most_rate(band.snr_per_w_KM[k, list(chosen)], caps_w_K[k])
                columns.append((ready_s_K[k] + bits_K[k] / rate, k, chosen))
    delays_s = np.array([delay_s for delay_s, *_ in columns])
    use = np.zeros((K + M, len(columns)))
    for s, (_, k, chosen) in enumerate(columns):
        use[[k, *(K + np.array(chosen))], s] = 1.0
    rows = LinearConstraint(use, np.repeat([1.0, 0.0], [K, M]), 1.0)

    def possible(delay_s):
        bounds = Bounds(0.0, (delays_s <= delay_s).astype(float))
        return milp(np.zeros(len(columns)), constraints=rows, integrality=np.ones(len(columns)), bounds=bounds).success

    candidates_s = np.unique(delays_s)
    low, high = 0, len(candidates_s) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if possible(candidates_s[middle]) else (middle + 1, high)
    return float(candidates_s[low])


@pytest.mark.parametrize(("num_clients", "num_subchannels"), [(4, 10), (6, 16), (8, 24)])
@pytest.mark.parametrize("equal_caps", [True, False])
def test_plan_and_bound_enclose_the_optimum_of_exact_set_packing(num_clients, num_subchannels, equal_caps):
    g = np.random.default_rng(num_clients + 10 * equal_caps)
    problem = cell_problem(num_clients, num_subchannels, seed=1)

    def wild(band):
        gain_KM = 10 ** g.uniform(-13, -9, band.gain_KM.shape)
        for k in range(num_clients):  # Few are heard, so that all sets can be listed.
            heard = {k, *g.choice(num_subchannels, HEARD - 1, replace=False).tolist()}
            gain_KM[k, [m for m in range(num_subchannels) if m not in heard]] = 0.0
        return replace(band, gain_KM=gain_KM, total_power_max_w=1e3)

    caps_w_K = np.full(num_clients, 0.02) if equal_caps else 10 ** g.uniform(-3, 0, num_clients)
    problem = replace(problem, main=wild(problem.main), fed=wild(problem.fed), tx_power_max_w_K=caps_w_K)
    cut, rank = problem.cuts[0], problem.ranks[0]
    problem = problem.restrict([cut], [rank])
    outcome, load, speed_K = plan(problem), load_of(problem, cut, rank), problem.client_flop_per_s_K
    ready_s_K = load.client_forward_flop_IK[0] / speed_K
    main_s = least_band_delay_s(problem.main, ready_s_K, load.uplink_bits_IK[0], caps_w_K)
    fed_s = least_band_delay_s(problem.fed, np.zeros(num_clients), load.fed_upload_bits_K, caps_w_K)
    server_s = float(load.server_forward_flop_I[0] + load.server_backward_flop_I[0]) / problem.server_flop_per_s
    back_s = float(np.max(load.client_backward_flop_IK[0] / speed_K))
    best_s = problem.rounds_to_target[rank] * (problem.local_steps * (main_s + server_s + back_s) + fed_s)
    assert outcome.lower_bound_s <= best_s * (1 + 1e-9)
    assert best_s * (1 - 1e-6) <= outcome.delay_s <= best_s * 1.001
    assert outcome.gap < 5e-3
