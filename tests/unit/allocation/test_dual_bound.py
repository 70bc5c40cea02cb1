"""The lemma behind the bound: whatever the prices, what they prove is below what any owners and powers reach."""

import itertools
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.problems import cell_problem
from wavetune.allocation import band as band_module
from wavetune.allocation.band import ranked, vital_of_rates
from wavetune.allocation.decision import Evaluator, fixed_options
from wavetune.allocation.dual_bound import excess, provable_delay, raise_bound, rounded_owners, uniform_prices
from wavetune.allocation.effort import Clock, Effort
from wavetune.allocation.gains import log_and_inverse
from wavetune.allocation.ladder import owners_delay
from wavetune.allocation.planner import plan
from wavetune.allocation.prices import Prices
from wavetune.allocation.water_filling import BandProblem

SEEDS = st.integers(0, 2**32)


def small_problem(g):
    """Up to three clients on up to six subchannels: fading or wild gains, caps and totals that bind or not."""
    K = int(g.integers(1, 4))
    M = int(g.integers(K, 7))
    snr_per_w_KM = 10 ** g.uniform(-1, 4, (K, 1)) * g.exponential(size=(K, M))
    if g.random() < 0.5:
        snr_per_w_KM = 10 ** g.uniform(-6, 6, (K, M)) * (g.random((K, M)) < 0.9)
    tables = log_and_inverse(snr_per_w_KM)
    problem = BandProblem(
        *tables, g.uniform(0, 1, K), 10 ** g.uniform(-1, 2, K), 10 ** g.uniform(-2, 1, K), 10 ** g.uniform(-2, 1)
    )
    problem = with_vital(problem) if g.random() < 0.5 else problem
    return with_ranking(problem, int(g.integers(1, M + 1))) if g.random() < 0.5 else problem


def with_ranking(problem, most):
    """The problem that says which subchannels are its clients' strongest."""
    return problem._replace(ranking=ranked(problem.log_KM, problem.inverse_KM, most))


def with_vital(problem):
    """The problem that says which subchannels its clients cannot do without."""
    most_w_K = np.minimum(problem.cap_w_K, problem.total_w)
    return problem._replace(vital=vital_of_rates(problem.log_KM, problem.inverse_KM, most_w_K, problem.limit))


def best_owners(problem):
    """Least delay over every way to hand out the subchannels, and the owners that reach it."""
    K, M = problem.log_KM.shape
    everyone = [np.array(owners) for owners in itertools.product(range(K), repeat=M)]
    delays_s = [owners_delay(problem, owner_M) for owner_M in everyone]
    return everyone[int(np.argmin(delays_s))], min(delays_s)


def random_prices(g, problem):
    K, M = problem.log_KM.shape
    weight_M1 = g.dirichlet(np.full(M + 1, 10 ** g.uniform(-1, 1)))
    counts_K = g.integers(0, M + 1, K)
    return Prices(weight_M1, counts_K, 10 ** g.uniform(-3, 3, (K, 2)), 1 + g.exponential(size=(K, 2)))


@settings(max_examples=60)
@given(SEEDS)
def test_any_prices_prove_only_what_is_impossible(seed):
    g = np.random.default_rng(seed)
    problem = small_problem(g)
    _, best_s = best_owners(problem)
    if np.isfinite(best_s):
        for goal_s in (best_s, 3.0 * best_s):
            assert provable_delay(problem, random_prices(g, problem), 1e-9, goal_s) <= best_s
        assert excess(problem, random_prices(g, problem), best_s * (1 + 1e-9))[0] <= 0


@settings(max_examples=40)
@given(SEEDS)
def test_the_bound_rises_to_the_optimum_and_stops_there(seed):
    problem = small_problem(np.random.default_rng(seed))
    owner_M, best_s = best_owners(problem)
    if np.isfinite(best_s):
        low_s = float(np.max(problem.ready_K)) + 1e-6 * best_s
        prices = uniform_prices(problem, owner_M, min(low_s, best_s), best_s)
        proved_s = provable_delay(problem, prices, min(low_s, best_s), best_s)
        raised_s, _ = raise_bound(problem, prices, proved_s, 1.5 * best_s, np.inf, 1e-5 * best_s, 200)
        assert proved_s <= raised_s <= best_s
        assert np.all(prices.weight_M1 >= 0)
        assert abs(np.sum(prices.weight_M1) - 1) < 1e-9


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_strongest_subchannels_first_give_the_bound_of_all(seed):
    g = np.random.default_rng(seed)
    K, M = int(g.integers(1, 6)), int(g.integers(20, 120))
    snr_per_w_KM = 10 ** g.uniform(-1, 4, (K, 1)) * g.exponential(size=(K, M)) * (g.random((K, M)) < 0.9)
    limit = np.inf if g.random() < 0.5 else 4.0
    caps_w_K, needs_K = 10 ** g.uniform(-2, 1, K), M / K * 10 ** g.uniform(-1, 0.5, K)
    problem = BandProblem(*log_and_inverse(snr_per_w_KM), np.zeros(K), needs_K, caps_w_K, 10 ** g.uniform(-2, 1), limit)
    problem = with_vital(problem) if g.random() < 0.5 else problem
    found = []
    for one in (problem, with_ranking(problem, M), with_ranking(problem, int(g.integers(1, M)))):
        prices = random_prices(np.random.default_rng(seed), problem)
        found.append([excess(one, prices, delay_s)[0] for delay_s in (1.0, 1.1, 1.0)])
    close = 2e-4 + 1e-6 * np.abs(np.minimum(found[0], 4.0))
    for other in found[1:]:
        assert np.all((np.abs(np.array(other) - found[0]) <= close) | (np.minimum(other, found[0]) > 3.0))


def test_two_clients_who_need_two_of_three_subchannels_each_are_proved_too_many_by_hand():
    # Ratio 3 at 1 W on any subchannel: 2 bit/s/Hz each. Within the cap of 1 W, 3 bit in 1 s take two subchannels.
    problem = BandProblem(*log_and_inverse(np.full((2, 3), 3.0)), np.zeros(2), np.full(2, 2.3), np.ones(2), 10.0)
    even = Prices(np.array([1.0, 1.0, 1.0, 1e-9]) / (3 + 1e-9), np.ones(2, np.int64), np.ones((2, 2)), np.ones((2, 2)))
    over, use_M1, _ = excess(problem, even, 1.0)
    assert abs(over - 1 / 3) < 1e-6
    assert abs(np.sum(use_M1[:3]) - 4) < 1e-6
    # With one subchannel for one of them, its 2.3 bit take 1.15 s; until then four would be needed.
    assert abs(provable_delay(problem, even, 0.1, 2.0) - 1.15) < 1e-3
    assert abs(best_owners(problem)[1] - 1.15) < 1e-9


def test_cheapest_bundles_of_clients_who_do_not_compete_are_whole():
    snr_per_w_KM = np.array([[9.0, 9.0, 0.0, 0.0], [0.0, 0.0, 9.0, 9.0]])
    problem = BandProblem(*log_and_inverse(snr_per_w_KM), np.zeros(2), np.full(2, 2.0), np.ones(2), 2.0)
    owner_M = np.array([0, 0, 1, 1])
    best_s = owners_delay(problem, owner_M)
    prices = uniform_prices(problem, owner_M, 0.1 * best_s, best_s)
    assert rounded_owners(problem, prices, best_s).tolist() == [0, 0, 1, 1]


def test_clients_who_need_one_of_the_same_few_subchannels_are_known_to_need_them():
    snr_per_w_KM = np.full((3, 12), 1e-4)
    snr_per_w_KM[:, :2] = 1e-2  # two quiet subchannels for three faint clients: one of them does with a loud one
    ones_K = np.ones(3)
    problem = BandProblem(*log_and_inverse(snr_per_w_KM), 0.0 * ones_K, ones_K, ones_K, 100.0)
    owner_M = np.array([0, 1, *[2] * 10])
    best_s = owners_delay(problem, owner_M)
    proved = []
    for one in (problem, with_vital(problem)):
        prices = uniform_prices(one, owner_M, 0.01 * best_s, best_s)
        proved.append(raise_bound(one, prices, 0.005 * best_s, 0.9999 * best_s, np.inf, 1e-4 * best_s, 300)[0])
    assert proved[0] < 0.5 * best_s
    assert proved[1] == 0.9999 * best_s


def test_prices_that_count_subchannels_alone_do_not_end_the_proof():
    """The clients take as many subchannels as there are, so that a price of power seems to prove nothing."""
    g, problem = np.random.default_rng(12), cell_problem(25, 100).restrict([1], [8])
    gain_KM = 10 ** g.uniform(-11, -8, (25, 1)) * g.exponential(size=(25, 100))
    main, fed = replace(problem.main, gain_KM=gain_KM), replace(problem.fed, gain_KM=gain_KM[:, ::-1].copy())
    assert plan(replace(problem, main=main, fed=fed)).gap < 2e-3


def test_prices_find_the_few_subchannels_that_more_clients_need_than_there_are():
    """Faint clients carry hardly more on many subchannels than on the best, and the quiet ones are few."""
    g, problem = np.random.default_rng(3), cell_problem(45, 99).restrict([1], [8])

    def faint(band):
        gain_KM = np.repeat(10 ** g.uniform(-12, -10, (45, 1)), 99, axis=1)
        gain_KM[-11:] *= 1e-3
        return replace(band, gain_KM=gain_KM, interference_w_M=1e-12 * g.exponential(size=99), total_power_max_w=1e3)

    assert plan(replace(problem, main=faint(problem.main), fed=faint(problem.fed))).gap < 1e-3


def one_pair(problem):
    """The main band of one cut and rank, and the greedy owners to start from."""
    evaluator = Evaluator(problem)
    band = evaluator.main_problem(fixed_options(problem, 11, 8))
    return band, band_module.first_incumbent(evaluator.main, band)


def test_prices_begin_where_power_costs_what_it_is_worth_to_the_owners():
    """Subchannels and power are all taken, so that a trial of next to no price of power seems to prove most."""
    band, start = one_pair(cell_problem(10, 40))
    found, low_s = band_module.descend(band, start, Clock()), start.priced_s
    prices = uniform_prices(band, found.owner_M, low_s, found.delay_s)
    assert provable_delay(band, prices, low_s, found.delay_s) > 0.98 * found.delay_s


def test_prices_are_moved_no_more_often_than_the_effort_says(monkeypatch):
    moved, raised = [], band_module.raise_bound

    def counted(*arguments):
        moved.append(arguments[-1])
        return raised(*arguments)

    monkeypatch.setattr(band_module, "raise_bound", counted)
    band_module.solve(*one_pair(cell_problem(40, 160)), 0.0, Effort(0, 3, 7, 0, 0, 0), Clock())
    assert sum(moved) == 7
