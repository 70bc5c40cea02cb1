"""Hardly more subchannels than clients: matching proves what owners can do at best, and finds the best."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.problems import cell_problem
from wavetune.allocation.band import vital_of_rates, vital_of_sums
from wavetune.allocation.gains import log_and_inverse
from wavetune.allocation.ladder import owners_delay
from wavetune.allocation.matching import Matching
from wavetune.allocation.planner import plan
from wavetune.allocation.water_filling import BandProblem
from wavetune.wireless.rate_models import Shannon


def drawn_problem(g, spare):
    """Up to four clients, some of whom do not send or do not receive, on as many subchannels and some to spare."""
    K = int(g.integers(1, 5))
    M = K + spare
    heard_KM = g.random((K, M)) < 0.9
    snr_per_w_KM = 10 ** g.uniform(-1, 3, (K, M)) * heard_KM
    back_KM = g.exponential(size=(K, M)) * heard_KM
    ask_K = g.uniform(0, 1.5) * back_KM.mean(axis=1) * (g.random(K) < 0.8)
    need_K, cap_w_K = 10 ** g.uniform(-1, 1, K) * (g.random(K) < 0.8), 10 ** g.uniform(-2, 1, K)
    limit = 4.0 if g.random() < 0.5 else np.inf
    tables = log_and_inverse(snr_per_w_KM)
    problem = BandProblem(*tables, g.uniform(0, 1, K), need_K, cap_w_K, 3.0, limit, back_KM, ask_K)
    vital = vital_of_rates(*tables, np.minimum(cap_w_K, 3.0), limit)
    return problem._replace(vital=vital, vital_back=vital_of_sums(back_KM)) if g.random() < 0.5 else problem


def least_up_s(problem):
    """Least delay over all owners that carry what is asked of the way back; those who do not send start at once."""
    K, M = problem.log_KM.shape
    owners = (np.array(o) for o in itertools.product(range(-1, K), repeat=M))
    carried = ((o, [problem.back_KM[k, o == k].sum() for k in range(K)]) for o in owners)
    return min((owners_delay(problem, o) for o, c in carried if np.all(c >= problem.ask_K)), default=np.inf)


@given(st.integers(0, 2**32))
def test_one_subchannel_each_is_matched_as_well_as_can_be_whoever_limits_the_power(seed):
    g = np.random.default_rng(seed)
    problem = drawn_problem(g, int(g.integers(0, 3)))._replace(total_w=10 ** g.uniform(-1, 1))
    (K, M), sends_K = problem.log_KM.shape, problem.need_K > 0
    if not np.any(sends_K):
        return
    owners = [np.full(M, -1) for _ in itertools.permutations(range(M), K)]
    for owner_M, channel_K in zip(owners, itertools.permutations(range(M), K), strict=True):
        owner_M[list(channel_K)] = np.arange(K)
    best_s, goal_s = min(owners_delay(problem, np.where(sends_K[o], o, -1)) for o in owners), 1e3
    owner_M = Matching.of(problem).soonest_of_one(0.0, goal_s)
    if best_s < 0.99 * goal_s:
        assert owner_M is not None
        assert owners_delay(problem, owner_M) <= best_s + 2**-11 * goal_s


@settings(max_examples=100)
@given(st.integers(0, 2**32), st.integers(0, 2))
def test_matching_proves_only_what_is_impossible_and_all_of_it_with_one_subchannel_each(seed, spare):
    problem = drawn_problem(np.random.default_rng(seed), spare)
    if not np.any(problem.need_K > 0):
        return
    best_s, goal_s = least_up_s(problem), 1e3
    found_s, owner_M = Matching.of(problem).least_up_s(problem.ask_K, 0.0, goal_s)
    assert found_s <= min(best_s, goal_s) * (1 + 1e-9)
    everyone = np.all((problem.need_K > 0) | (problem.ask_K > 0))
    if spare == 0 and everyone and np.sum(problem.cap_w_K) <= problem.total_w and best_s < goal_s:
        assert found_s >= best_s - 2**-11 * goal_s
        assert owner_M is not None


def crowded(num_clients, num_subchannels, seed):
    """Clients from near to far with hardly more subchannels, whose way back takes as long as the way there."""
    problem, g = cell_problem(num_clients, num_subchannels, seed=seed), np.random.default_rng(seed)
    mean_K1 = 10 ** g.uniform(-12.5, -9.5, (num_clients, 1))

    def band(one):
        up_KM, down_KM = mean_K1 * g.exponential(size=(2, *one.gain_KM.shape))
        rate = Shannon(snr_gap_db=2.0, max_bit_per_s_per_hz=7.4)
        return replace(
            one, gain_KM=up_KM, rate=rate, total_power_max_w=100.0, downlink_gain_KM=down_KM, downlink_power_w=10.0
        )

    problem = replace(problem, main=band(problem.main), fed=band(problem.fed), price_downlink=True)
    return replace(problem, tx_power_max_w_K=np.full(num_clients, 0.2)).restrict([problem.cuts[0]], [8])


@pytest.mark.parametrize(("num_clients", "num_subchannels"), [(27, 27), (70, 70)])
def test_crowded_cells_are_planned_within_a_thousandth(num_clients, num_subchannels):
    assert plan(crowded(num_clients, num_subchannels, 0)).gap < 1.1e-3


def mostly_dead(num_clients, num_subchannels, seed):
    """Clients who are heard on an eighth of the subchannels, each on one at least, in hardly more than they are."""
    problem, g = cell_problem(num_clients, num_subchannels, seed=seed), np.random.default_rng(seed)

    def band(one):
        alive_KM = g.random(one.gain_KM.shape) < 0.12
        alive_KM[np.arange(num_clients), g.permutation(num_subchannels)[:num_clients]] = True
        gain_KM = 10 ** g.uniform(-12.5, -9.5, (num_clients, 1)) * g.exponential(size=one.gain_KM.shape)
        return replace(one, gain_KM=gain_KM * alive_KM)

    return replace(problem, main=band(problem.main), fed=band(problem.fed)).restrict([problem.cuts[0]], [8])


@pytest.mark.parametrize("seed", range(4))
def test_first_plans_of_crowded_cells_are_near_the_best(seed):
    for problem in (mostly_dead(30, 30, seed), crowded(30, 32, seed)):
        assert plan(problem, time_limit_s=1e-9).delay_s <= 1.05 * plan(problem, time_limit_s=4.0).delay_s


def test_first_plans_start_from_matchings_too_where_greedy_owners_lead_nowhere():
    problem = mostly_dead(30, 36, 4)
    assert plan(problem, time_limit_s=1e-9).delay_s <= 1.05 * plan(problem, time_limit_s=4.0).delay_s


@pytest.mark.parametrize(("num_clients", "num_subchannels", "seed"), [(40, 42, 0), (30, 33, 5), (20, 60, 6)])
def test_first_plans_start_from_packed_sets_too_where_hardly_any_subchannel_is_heard(
    num_clients, num_subchannels, seed
):
    problem = mostly_dead(num_clients, num_subchannels, seed)
    assert plan(problem, time_limit_s=1e-9).delay_s <= 1.04 * plan(problem, time_limit_s=4.0).delay_s


def test_with_shares_who_sends_best_where_the_other_receives_best_is_counted_both_ways_in_the_adapters_band():
    """Either subchannel is strong for one way of a client and faint for the other; adapters take most of a round."""
    problem = crowded(2, 5, 0)
    near_KM = 1e-12 * np.array([[1.0, 0.1], [0.1, 1.0]])
    fed = replace(problem.fed, gain_KM=near_KM, downlink_gain_KM=1e-3 * near_KM[::-1])
    costs = replace(problem.costs, lora_bits_per_rank_L=1e3 * problem.costs.lora_bits_per_rank_L)
    assert plan(replace(problem, fed=fed, costs=costs, share_server=True)).gap < 0.03
