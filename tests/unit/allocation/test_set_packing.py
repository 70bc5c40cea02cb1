"""Set packing: exact cheapest sets, refutations that hold, and owners where the program cannot refute."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.problems import cell_problem
from wavetune.allocation.band import vital_of_rates
from wavetune.allocation.gains import log_and_inverse
from wavetune.allocation.ladder import owners_delay
from wavetune.allocation.planner import plan
from wavetune.allocation.set_packing import cheapest_sets, pack
from wavetune.allocation.water_filling import BandProblem, optimal_power

SEEDS = st.integers(0, 2**32)


def small_problem(g):
    """Three clients on six subchannels with gains, caps and needs far apart."""
    snr_per_w_KM = 10 ** g.uniform(-2, 3, (3, 6)) * (g.random((3, 6)) < 0.9)
    tables = log_and_inverse(snr_per_w_KM)
    problem = BandProblem(*tables, g.uniform(0, 1, 3), 10 ** g.uniform(-1, 1, 3), 10 ** g.uniform(-2, 1, 3), 3.0)
    vital = vital_of_rates(*tables, np.minimum(problem.cap_w_K, problem.total_w), problem.limit)
    return problem._replace(vital=vital) if g.random() < 0.5 else problem


def least_delay_s(problem):
    return min(owners_delay(problem, np.array(owners)) for owners in itertools.product(range(3), repeat=6))


def set_cost(problem, weight_M1, k, chosen, delay_s):
    """Price of a set for client k, found from its own delay by raising its need until it ends just in time."""
    alone = problem._replace(need_K=np.where(np.arange(3) == k, problem.need_K, 0.0))
    owner_M = np.where(chosen, k, -1)
    if owners_delay(alone, owner_M) > delay_s:
        return np.inf
    low_w, high_w = 0.0, float(problem.cap_w_K[k])
    for _ in range(100):
        middle_w = 0.5 * (low_w + high_w)
        slower = owners_delay(alone._replace(cap_w_K=np.full(3, middle_w)), owner_M) > delay_s
        low_w, high_w = (middle_w, high_w) if slower else (low_w, middle_w)
    return float(weight_M1[:6][chosen].sum() + weight_M1[6] / problem.total_w * high_w)


@settings(max_examples=15)
@given(SEEDS)
def test_the_cheapest_set_is_that_of_enumeration(seed):
    g = np.random.default_rng(seed)
    problem, weight_M1 = small_problem(g), g.dirichlet(np.ones(7))
    delay_s = float(np.max(problem.ready_K) + 10 ** g.uniform(-1, 1))
    value_K, set_KM, *_ = cheapest_sets(problem, weight_M1, delay_s, 10_000)
    subsets = [np.array(bits) for bits in itertools.product([False, True], repeat=6)]
    for k in range(3):
        best = min(set_cost(problem, weight_M1, k, chosen, delay_s) for chosen in subsets)
        assert value_K[k] == pytest.approx(best, rel=1e-6)
        if np.isfinite(best):
            assert set_cost(problem, weight_M1, k, set_KM[k], delay_s) == pytest.approx(best, rel=1e-6)


def test_subchannels_that_cost_alike_are_counted_whole():
    log2 = [17.3, 15.1, 15.4, 16.6, 15.8, 15.9, 12.8, 15.6, 18, 12.6, 16.7, 10.1, 16.9, 15.4, 16.2, 13.4, 16.1, 13.8]
    M, tables = len(log2), log_and_inverse(2.0 ** np.array([log2]))
    problem = BandProblem(*tables, np.zeros(1), np.array([2.63]), np.array([0.2]), 100.0, 7.4)
    asks_for_two = problem._replace(back_KM=np.ones((1, M)), ask_K=np.array([1.05]))
    value_K, set_KM, *_ = cheapest_sets(asks_for_two, np.append(np.full(M, 0.0117), 1e-7), 1.0, 30)
    assert np.sum(set_KM) == 2
    assert value_K[0] == pytest.approx(2 * 0.0117, rel=1e-4)


@settings(max_examples=25)
@given(SEEDS)
def test_what_is_refuted_is_below_the_optimum_of_enumeration(seed):
    g = np.random.default_rng(seed)
    problem = small_problem(g)
    best_s = least_delay_s(problem)
    if not np.isfinite(best_s):
        return
    ready_s = float(np.max(problem.ready_K))
    owner_M = g.integers(0, 3, 6)
    for share in (0.5, 0.9, 1 - 1e-9):
        packing = pack(problem, np.full(7, 1 / 7), owner_M, ready_s + share * (best_s - ready_s))
        assert packing.owner_M.shape == (6,)
    for delay_s in (best_s * (1 + 1e-9), 2 * best_s):
        for weight_M1 in (np.full(7, 1 / 7), g.dirichlet(np.ones(7))):
            assert pack(problem, weight_M1, owner_M, delay_s).weight_M1 is None


def test_two_clients_who_need_two_of_three_subchannels_each_are_refuted_and_one_who_needs_one_is_served():
    # Ratio 3 at 1 W: 2 bit/s/Hz on a subchannel, so that 2.3 bit in 1 s take two within a cap of 1 W.
    problem = BandProblem(*log_and_inverse(np.full((2, 3), 3.0)), np.zeros(2), np.full(2, 2.3), np.ones(2), 10.0)
    nobody_M = np.full(3, -1)
    assert pack(problem, np.full(4, 0.25), nobody_M, 1.1).weight_M1 is not None
    served = pack(problem, np.full(4, 0.25), nobody_M, 1.2)
    assert served.weight_M1 is None
    assert optimal_power(problem, served.owner_M)[0] <= 1.2


@pytest.mark.parametrize("seed", [3, 5])
def test_caps_far_apart_and_wild_gains_are_planned_within_half_a_percent_and_at_first_within_five(seed):
    g = np.random.default_rng(seed)
    problem = cell_problem(12, 26, seed=seed)
    gains = [10 ** g.uniform(-13, -9, (12, 26)) for _ in range(2)]
    main, fed = (
        replace(band, gain_KM=gain, total_power_max_w=1e3)
        for band, gain in zip((problem.main, problem.fed), gains, strict=True)
    )
    caps_w_K = 10 ** g.uniform(-3, 0, 12) if seed == 3 else np.full(12, 0.02)
    problem = replace(problem, main=main, fed=fed, tx_power_max_w_K=caps_w_K)
    outcome = plan(problem)
    assert outcome.gap < 5e-3
    assert plan(problem, time_limit_s=1e-9).delay_s < 1.05 * outcome.delay_s
