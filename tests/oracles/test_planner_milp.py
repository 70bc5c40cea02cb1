"""The planner against exact set packing: every set of every client, chosen by HiGHS, where the total power is slack."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy.optimize import Bounds, LinearConstraint, milp

from helpers.problems import cell_problem
from wavetune.allocation.delay import load_of
from wavetune.allocation.feasibility import violations
from wavetune.allocation.planner import plan
from wavetune.wireless.rate_models import Ladder, RateModel, Shannon, envelope_of_ladder

HEARD = 5
RATES = (Shannon(), Shannon(snr_gap_db=3.0, max_bit_per_s_per_hz=5.0, uplink_overhead=0.1))


@dataclass(frozen=True)
class FewSteps(RateModel):
    """Four rates, so that all choices of them can be listed."""

    def ladder(self, subchannel_hz, uplink=True):
        return Ladder(np.array([0.5, 3.0, 20.0, 90.0]), subchannel_hz * np.array([0.4, 1.6, 3.5, 5.0]))

    def envelope(self, subchannel_hz, uplink=True):
        return envelope_of_ladder(self, subchannel_hz, uplink)

    def rate_bit_per_s(self, snr, subchannel_hz, uplink=True):
        snr_i, rate_i = self.ladder(subchannel_hz)
        return np.concatenate(([0.0], rate_i))[np.searchsorted(snr_i * (1 - 1e-9), snr, side="right")]


def most_bit_per_s(band, snr_per_w, cap_w):
    """The most that a set of subchannels carries: all choices of steps, or water-filling by bisection on the level."""
    if band.ladder is not None:
        steps = [(0.0, 0.0), *zip(*(x.tolist() for x in band.ladder), strict=True)]
        choices = itertools.product(steps, repeat=len(snr_per_w))
        powers = ((sum(s / h for (s, _), h in zip(c, snr_per_w, strict=True)), c) for c in choices)
        return max(sum(r for _, r in c) for power_w, c in powers if power_w <= cap_w)
    share, gap, most = band.rate.envelope(band.subchannel_hz)
    inverse = gap / snr_per_w
    full_w = (2.0 ** min(most, 500.0) - 1) * inverse
    if np.sum(full_w) <= cap_w:
        return share * band.subchannel_hz * most * len(inverse)
    low, high = 0.0, cap_w + np.max(inverse)
    while low < (level := 0.5 * (low + high)) < high:
        spent_w = np.sum(np.clip(level - inverse, 0.0, full_w))
        low, high = (level, high) if spent_w <= cap_w else (low, level)
    return share * band.subchannel_hz * float(np.sum(np.log2(1 + np.clip(low - inverse, 0.0, full_w) / inverse)))


def least_band_delay_s(band, ready_s_K, bits_K, caps_w_K):
    """Least delay over all ways to give each client a set of subchannels, each with the client's full power."""
    K, M = band.gain_KM.shape
    columns = []
    for k in range(K):
        heard = np.flatnonzero(band.gain_KM[k] > 0)
        for size in range(1, len(heard) + 1):
            for chosen in itertools.combinations(heard, size):
                snr_per_w = band.gain_KM[k, list(chosen)] / band.noise_w
                if (rate := most_bit_per_s(band, snr_per_w, caps_w_K[k])) > 0:
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
@pytest.mark.parametrize("rate", RATES, ids=["shannon", "with-gap-and-limit"])
def test_plan_and_bound_enclose_the_optimum_of_exact_set_packing(num_clients, num_subchannels, equal_caps, rate):
    problem, best_s = problem_and_optimum(num_clients, num_subchannels, equal_caps, rate)
    outcome = plan(problem)
    assert outcome.lower_bound_s <= best_s * (1 + 1e-9)
    assert best_s * (1 - 1e-6) <= outcome.delay_s <= best_s * 1.001
    assert outcome.gap < 5e-3


@pytest.mark.parametrize("equal_caps", [True, False])
def test_a_plan_of_steps_and_its_bound_enclose_the_best_of_all_steps(equal_caps):
    problem, best_s = problem_and_optimum(4, 10, equal_caps, FewSteps())
    outcome = plan(problem)
    assert violations(problem, outcome) == []
    assert outcome.lower_bound_s <= best_s * (1 + 1e-9)
    assert best_s * (1 - 1e-9) <= outcome.delay_s <= best_s * 1.001
    assert outcome.gap < 5e-3


def problem_and_optimum(num_clients, num_subchannels, equal_caps, rate):
    """Clients that hear few subchannels, and the least delay of one cut and rank by set packing."""
    g = np.random.default_rng(num_clients + 10 * equal_caps)
    problem = cell_problem(num_clients, num_subchannels, seed=1)

    def wild(band):
        gain_KM = 10 ** g.uniform(-13, -9, band.gain_KM.shape)
        for k in range(num_clients):  # Few are heard, so that all sets can be listed.
            heard = {k, *g.choice(num_subchannels, HEARD - 1, replace=False).tolist()}
            gain_KM[k, [m for m in range(num_subchannels) if m not in heard]] = 0.0
        return replace(band, gain_KM=gain_KM, total_power_max_w=1e3, rate=rate)

    caps_w_K = np.full(num_clients, 0.02) if equal_caps else 10 ** g.uniform(-3, 0, num_clients)
    problem = replace(problem, main=wild(problem.main), fed=wild(problem.fed), tx_power_max_w_K=caps_w_K)
    cut, rank = problem.cuts[0], problem.ranks[0]
    problem = problem.restrict([cut], [rank])
    load, speed_K = load_of(problem, cut, rank), problem.client_flop_per_s_K
    ready_s_K = load.client_forward_flop_IK[0] / speed_K
    main_s = least_band_delay_s(problem.main, ready_s_K, load.uplink_bits_IK[0], caps_w_K)
    fed_s = least_band_delay_s(problem.fed, np.zeros(num_clients), load.fed_upload_bits_K, caps_w_K)
    server_s = float(load.server_forward_flop_I[0] + load.server_backward_flop_I[0]) / problem.server_flop_per_s
    back_s = float(np.max(load.client_backward_flop_IK[0] / speed_K))
    best_s = problem.rounds_to_target[rank] * (problem.local_steps * (main_s + server_s + back_s) + fed_s)
    return problem, best_s
