"""Counting subchannels: few columns are enough, and what counting refutes is not searched."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.problems import cell_problem
from wavetune.allocation.band import BandTables, bound_by_prices, first_incumbent, raise_lower_bound
from wavetune.allocation.both_ways import BothWays
from wavetune.allocation.counting import Strongest, least_common_s, least_shared_s
from wavetune.allocation.effort import Clock
from wavetune.allocation.greedy import greedy_owners
from wavetune.allocation.problem import RadioBand


def way_back(num_clients, num_subchannels, seed):
    """Both ways of the main band of a cell whose server sends with little power, and owners by the greedy."""
    problem = cell_problem(num_clients, num_subchannels, seed=seed)
    band = replace(problem.main, downlink_gain_KM=problem.main.gain_KM[::-1].copy(), downlink_power_w=0.02)
    bits_K, ready_K = np.full(num_clients, 1e6), np.zeros(num_clients)
    uplink = BandTables(band, problem.tx_power_max_w_K).problem(ready_K, bits_K)
    return BothWays(band, uplink, bits_K, ready_K), greedy_owners(problem, 1, 1)[0]


@given(st.integers(2, 12), st.integers(0, 10**6))
def test_a_table_of_few_columns_counts_no_more_than_all_columns_and_mostly_as_much(num_clients, seed):
    g = np.random.default_rng(seed)
    rate_KM = g.exponential(size=(num_clients, 90)) * 10 ** g.uniform(-1.5, 0, (num_clients, 1))
    one_each_K = np.ones(num_clients, np.int64)
    found_s = Strongest.sums(rate_KM).least_common_s(np.zeros(num_clients), np.ones(num_clients), 1, 90)
    all_KM = 1.0 / np.cumsum(-np.sort(-rate_KM, axis=1), axis=1)
    wanted_s = least_common_s(all_KM, one_each_K, 90)
    assert found_s <= wanted_s
    assert found_s >= wanted_s * (1 - 1e-4)


@given(st.integers(1, 3), st.integers(1, 2), st.integers(2, 4), st.integers(0, 10**6))
def test_a_shared_server_is_counted_to_the_best_of_all_numbers_of_subchannels_and_cuts(K, C, M, seed):
    g = np.random.default_rng(seed)
    time_KCN = -np.sort(-g.uniform(0.1, 2.0, (K, C, M + 1)), axis=2)
    time_KCN[:, :, 0] = np.where(g.random((K, C)) < 0.2, 0.0, np.inf)  # who sends nothing needs none
    work_s_KC = g.uniform(0.01, 1.0, (K, C))
    best_s = np.inf
    for choice_K in product(range(C), repeat=K):
        for count_K in product(range(M + 1), repeat=K):
            time_K = time_KCN[np.arange(K), choice_K, count_K]
            if sum(count_K) <= M and np.all(np.isfinite(time_K)):
                best_s = min(best_s, shared_s(time_K, work_s_KC[np.arange(K), choice_K]))
    if np.isfinite(best_s):
        assert 0.999 * best_s <= least_shared_s(time_KCN, work_s_KC, 0.0, 2 * best_s) <= best_s * (1 + 1e-9)
        assert least_shared_s(time_KCN, work_s_KC, 0.0, 0.9 * best_s) == 0.9 * best_s


def shared_s(time_K, work_s_K):
    """The step of given times with the best shares of the server."""
    low_s, high_s = float(np.max(time_K)), float(np.max(time_K) + np.sum(work_s_K))
    for _ in range(60):
        middle_s = 0.5 * (low_s + high_s)
        done = np.sum(work_s_K / np.maximum(middle_s - time_K, 1e-300)) <= 1
        low_s, high_s = (low_s, middle_s) if done else (middle_s, high_s)
    return high_s


def test_problems_are_counted_together_as_each_alone_whoever_sends_in_it():
    g = np.random.default_rng(5)
    strongest = Strongest.sums(g.exponential(size=(7, 90)))
    start_PK, amount_PK = g.uniform(0, 3, (6, 7)), g.uniform(0, 40, (6, 7)) * (g.random((6, 7)) < 0.7)
    amount_PK[0], least_PK = 0.0, g.integers(1, 4, (6, 7))
    together_P = strongest.least_common_s(start_PK, amount_PK, least_PK, 90)
    assert together_P[0] == -np.inf
    for p in range(1, 6):
        sends = amount_PK[p] > 0
        alone = Strongest.sums(np.diff(strongest.rates(90)[sends], axis=1, prepend=0.0))
        alone_s = alone.least_common_s(start_PK[p, sends], amount_PK[p, sends], least_PK[p, sends], 90)
        assert together_P[p] == pytest.approx(alone_s, rel=1e-6)
    assert strongest.least_common_s(start_PK[1], amount_PK[1], 20, 90) == np.inf


def test_the_search_for_both_ways_asks_for_nothing_that_counting_refutes(monkeypatch):
    ways, owner_M = way_back(6, 24, seed=3)
    asked, search = [], BothWays.search

    def noted(self, up_s, down_s, *others, **named):
        asked.append((up_s, down_s))
        return search(self, up_s, down_s, *others, **named)

    monkeypatch.setattr(BothWays, "search", noted)
    delay_s = ways.improve([owner_M], 0.0, 0, Clock()).delay_s
    assert delay_s < ways.delay_s(owner_M)
    assert asked
    assert all(ways.counted_up_s(down_s) <= up_s for up_s, down_s in asked)


def test_the_greedy_computes_a_bands_ratios_once(monkeypatch):
    problem, ratios = cell_problem(4, 16, seed=0), []
    of_band = RadioBand.snr_per_w_KM.func
    monkeypatch.setattr(RadioBand, "snr_per_w_KM", property(lambda band: ratios.append(1) or of_band(band)))
    greedy_owners(problem, 1, 1)
    assert len(ratios) <= 4


@pytest.mark.parametrize("seed", [0, 2, 4])
def test_prices_find_as_much_below_what_counting_has_proved_as_without_it(seed):
    problem = cell_problem(6, 18, seed)
    tables = BandTables(problem.main, problem.tx_power_max_w_K)
    band = tables.problem(np.zeros(6), np.full(6, 1e6))
    first = first_incumbent(tables, band)
    goal_s = first.delay_s
    plain = raise_lower_bound(band, first, goal_s, 1e-6 * goal_s, 60)
    counted = replace(first, bound_s=0.5 * (plain.bound_s + goal_s))
    found = raise_lower_bound(band, counted, goal_s, 1e-6 * goal_s, 60)
    assert found.bound_s >= counted.bound_s
    assert found.prices is not None
    assert bound_by_prices(band, found.prices, first.priced_s, goal_s) > plain.bound_s * (1 - 1e-4)
