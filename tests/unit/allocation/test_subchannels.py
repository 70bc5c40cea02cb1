from dataclasses import replace

import numpy as np

from helpers.problems import cell_problem
from wavetune.allocation.feasibility import violations
from wavetune.allocation.greedy import greedy_subchannels, plan_sflllm
from wavetune.allocation.plan import make_plan
from wavetune.allocation.problem import RadioBand
from wavetune.units import dbm_to_w


def band(gain_KM, total_power_max_w):
    return RadioBand(np.array(gain_KM, dtype=float), 1e6, 1e-21, total_power_max_w)


def test_clients_choose_in_order_then_the_straggler_takes_its_best():
    gain_KM = [[8e-15, 4e-15, 2e-15, 1e-15], [8e-15, 4e-15, 2e-15, 1e-15]]
    owner_M = greedy_subchannels(
        band(gain_KM, 4.0), np.array([0.0, 9.0]), np.full(2, 1e6), np.full(2, 9.0), np.array([2, 1])
    )
    # Client 1 chooses first, and as the one that is ready last stays the straggler.
    assert owner_M.tolist() == [1, 0, 1, 1]


def test_a_client_drops_out_at_its_power_cap_and_leaves_the_rest_to_others():
    gain_KM = np.full((2, 4), 1e-15)
    owner_M = greedy_subchannels(
        band(gain_KM, 4.0), np.array([9.0, 0.0]), np.full(2, 1e6), np.array([1.0, 2.0]), np.zeros(2)
    )
    assert np.bincount(owner_M[owner_M >= 0]).tolist() == [1, 2]
    assert np.sum(owner_M < 0) == 1


def test_a_total_that_is_out_of_reach_is_no_reason_to_drop_out():
    gain_KM = np.full((2, 4), 1e-15)
    owner_M = greedy_subchannels(band(gain_KM, 100.0), np.zeros(2), np.full(2, 1e6), np.full(2, 0.2), np.zeros(2))
    assert np.bincount(owner_M).tolist() == [2, 2]


def test_a_cap_that_is_a_whole_number_of_shares_but_for_the_rounding_of_a_level_holds_that_many():
    gain_KM = np.full((2, 12), 1e-15)
    just_below_w = dbm_to_w(31.76)  # 1.49968 W where 1.5 W are six shares of 0.25 W
    owner_M = greedy_subchannels(
        band(gain_KM, 3.0), np.zeros(2), np.full(2, 1e6), np.full(2, just_below_w), np.zeros(2)
    )
    assert np.bincount(owner_M).tolist() == [6, 6]


def test_the_whole_band_is_handed_out_though_caps_bind_and_powers_then_keep_them():
    gain_KM = np.full((2, 4), 1e-15)
    cap_w_K = np.array([1.0, 2.0])
    owner_M = greedy_subchannels(
        band(gain_KM, 4.0), np.array([9.0, 0.0]), np.full(2, 1e6), cap_w_K, np.zeros(2), whole_band=True
    )
    assert np.all(owner_M >= 0)
    problem = replace(cell_problem(4, 20, seed=4), tx_power_max_w_K=np.array([0.01, 0.05, 0.05, 0.05]))
    plain, whole = plan_sflllm(problem), plan_sflllm(problem, whole_band=True)
    assert np.any(plain.main.owner_M < 0)
    assert np.all(whole.main.owner_M >= 0)
    assert violations(problem, whole) == []
    assert whole.delay_s < plain.delay_s


def test_a_subchannel_that_helps_nobody_is_not_handed_out():
    gain_KM = np.array([[8e-15, 4e-15, 0.0, 0.0], [8e-15, 4e-15, 0.0, 0.0]])
    owner_M = greedy_subchannels(
        band(gain_KM, 4.0), np.zeros(2), np.full(2, 1e6), np.full(2, 0.5), np.zeros(2), whole_band=True
    )
    assert (owner_M >= 0).tolist() == [True, True, False, False]


def test_the_best_iterate_is_kept():
    problem = cell_problem(6, 20, seed=4)
    plans = [plan_sflllm(problem, max_iterations=n) for n in (1, 2, 10)]
    delays_s = [p.delay_s for p in plans]
    assert delays_s == sorted(delays_s, reverse=True)
    assert all(violations(problem, p) == [] for p in plans)


def test_alternation_beats_the_power_step_it_starts_from():
    problem = cell_problem(6, 20, seed=4).restrict(cuts=[11], ranks=[1])
    free = replace(problem, cuts=tuple(range(1, 12)), rounds_to_target={1: 64.0, 8: 43.0})
    start = plan_sflllm(problem)
    assert plan_sflllm(free).delay_s < make_plan(free, 11, 1, start.main, start.fed).delay_s
