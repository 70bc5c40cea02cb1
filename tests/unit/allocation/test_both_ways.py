"""A priced way back: owners serve both directions, and the bound counts both."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.problems import cell_problem
from wavetune.allocation.delay import least_common_s, load_of
from wavetune.allocation.plan import make_plan
from wavetune.allocation.planner import plan, plan_fixed
from wavetune.allocation.power import allocate_power
from wavetune.wireless.rate_models import Shannon


def two_way_problem(seed):
    """Few clients with a limit on their rate, who receive more slowly than they send."""
    problem, g = cell_problem(3, 7, seed=seed), np.random.default_rng(seed)
    rate = Shannon(snr_gap_db=2.0, max_bit_per_s_per_hz=7.4)

    def band(one):
        down_KM = one.gain_KM * g.exponential(size=one.gain_KM.shape)
        return replace(one, rate=rate, downlink_gain_KM=down_KM, downlink_power_w=0.02)

    problem = replace(problem, main=band(problem.main), fed=band(problem.fed), price_downlink=True)
    return replace(problem, tx_power_max_w_K=np.full(3, 0.05)).restrict([problem.cuts[0]], [8])


def best_delay_s(problem, fed):
    """Least delay over all owners of the main band."""
    cut, rank = problem.cuts[0], problem.ranks[0]
    load = load_of(problem, cut, rank)
    ready_s_K = load.client_forward_flop_IK[0] / problem.client_flop_per_s_K
    owners = itertools.product(range(3), repeat=problem.main.num_subchannels)
    found = (
        allocate_power(problem.main, np.array(o), ready_s_K, load.uplink_bits_IK[0], problem.tx_power_max_w_K)
        for o in owners if len(set(o)) == 3
    )  # fmt: skip
    return min(make_plan(problem, cut, rank, main, fed).delay_s for main, delay_s in found if np.isfinite(delay_s))


@pytest.mark.parametrize("seed", range(6))
def test_owners_for_both_ways_are_the_best_of_all_owners_and_the_bound_is_below(seed):
    problem = two_way_problem(seed)
    found = plan(problem)
    best_s = best_delay_s(problem, found.fed)
    assert found.lower_bound_s <= best_s * (1 + 1e-9)
    assert found.delay_s <= best_s * (1 + 1e-4)
    assert found.gap < 0.12


@given(st.integers(1, 4), st.integers(1, 7), st.integers(0, 10**6))
def test_the_least_common_time_is_the_first_at_which_the_subchannels_suffice(num_clients, num_subchannels, seed):
    g = np.random.default_rng(seed)
    time_KM = -np.sort(-g.integers(1, 9, (num_clients, num_subchannels)).astype(float), axis=1)
    least_K = g.integers(1, 3, num_clients)

    def needed(time_s):
        return sum(max(least, 1 + int(np.sum(own > time_s))) for own, least in zip(time_KM, least_K, strict=True))

    fitting = [t for t in np.unique(time_KM) if needed(t) <= num_subchannels]
    found = least_common_s(time_KM, least_K)
    assert np.isinf(found) if least_K.sum() > num_subchannels else needed(found) <= num_subchannels
    assert found <= min(fitting, default=np.inf)
    assert all(needed(t) > num_subchannels for t in np.unique(time_KM) if t < found)


@pytest.mark.parametrize("given", [False, True])
def test_a_way_back_that_carries_less_than_can_be_counted_leaves_no_plan(given):
    problem = cell_problem(3, 6, seed=1)
    silent = {
        name: replace(band, downlink_gain_KM=np.full((3, 6), 1e-300), downlink_power_w=1e-30)
        for name, band in (("main", problem.main), ("fed", problem.fed))
    }
    problem = replace(problem, price_downlink=True, **silent)
    found = plan_fixed(problem, np.full(3, 2), np.full(3, 4)) if given else plan(problem)
    assert found.status == "infeasible"
    assert "carries less than can be counted" in found.reason
