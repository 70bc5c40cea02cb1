"""Cuts that suit bands shared in time: the model solved, and first plans that start from them."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import brentq

from wavetune.allocation.decision import Evaluator, options_of
from wavetune.allocation.planner import plan
from wavetune.allocation.shared_in_time import suited, suited_choices, suited_prices


def draw(seed, K, C):
    """Seconds of K clients at C cuts: ready, back, work, up, down, fed."""
    g = np.random.default_rng(seed)
    return g.uniform(0.0, 1.0, (6, K, C)) * np.array([1, 1, 3, 0.3, 0.3, 0.1])[:, None, None]


def round_s(cost_6KC, choice_K, shared):
    allowed_KC = np.arange(cost_6KC.shape[2]) == choice_K[:, None]
    return suited(cost_6KC, allowed_KC, 3, shared, choice_K.copy())


@pytest.mark.parametrize("seed", range(5))
def test_a_band_shared_in_time_is_full_when_the_last_client_is_done(seed):
    ready_K, back_K, work_K, up_K, down_K, fed_K = (x_6KC := draw(seed, 4, 1))[..., 0]

    def last_s(start_K, alone_K):
        return brentq(lambda s: np.sum(alone_K / (s - start_K)) - 1, np.max(start_K) + 1e-9, 1e3)

    expected_s = 3 * (last_s(ready_K, up_K) + np.sum(work_K) + last_s(back_K, down_K)) + np.sum(fed_K)
    assert round_s(x_6KC, np.zeros(4, np.int64), False) == pytest.approx(expected_s, rel=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_two_clients_have_the_best_shares_of_band_and_server(seed):
    ready_K, back_K, work_K, up_K, down_K, fed_K = (x_6KC := draw(seed, 2, 1))[..., 0]
    a, s = np.meshgrid(*[np.linspace(0.002, 0.998, 1000)] * 2)
    ends = [
        ready_K[k] + back_K[k] + (up_K[k] + down_K[k]) / x + work_K[k] / y
        for k, (x, y) in enumerate([(a, s), (1 - a, 1 - s)])
    ]
    expected_s = 3 * float(np.min(np.maximum(*ends))) + np.sum(fed_K)
    assert round_s(x_6KC, np.zeros(2, np.int64), True) == pytest.approx(expected_s, rel=2e-3)


@pytest.mark.parametrize("shared", [False, True])
def test_no_single_client_would_be_better_off_with_another_cut(shared):
    cost_6KC, choice_K = draw(1, 6, 5), np.zeros(6, np.int64)
    allowed_KC = np.random.default_rng(2).random((6, 5)) < 0.7
    allowed_KC[:, 0] = True
    found_s = suited(cost_6KC, allowed_KC, 3, shared, choice_K)
    assert found_s == round_s(cost_6KC, choice_K, shared)
    assert found_s < round_s(cost_6KC, np.zeros(6, np.int64), shared)
    for k, c in np.argwhere(allowed_KC):
        other_K = choice_K.copy()
        other_K[k] = c
        assert found_s <= round_s(cost_6KC, other_K, shared) * (1 + 1e-6)


def drawn(kind, clients, seed):
    """A problem of a hard class with 20 subchannels."""
    path = Path(__file__).parents[3] / "benchmarks" / "planner_classes.py"
    spec = importlib.util.spec_from_file_location("planner_classes", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.problem_of(kind, clients, 20, seed)


@pytest.mark.parametrize("kind", ["cuts per client", "cuts and shares"])
@pytest.mark.parametrize("seed", range(3))
def test_prices_of_bands_shared_in_time_prove_nearly_all_of_a_round_with_the_best_cuts_there(kind, seed):
    problem = drawn(f"{kind}, slow server", 6, seed)
    evaluator, one = Evaluator(problem), options_of(problem, problem.ranks[0])
    round_s = min(suited_choices(evaluator, one), key=lambda found: found[0])[0] / one.rounds
    weight_W, late_KT = suited_prices(evaluator, one, round_s)
    assert np.sum(late_KT, axis=0) == pytest.approx([3, 3, 1, 1][problem.share_server :])
    power_w_K1 = np.full((6, 1), 6 * min(1.0, problem.main.total_power_max_w / 6) / 20)
    rate_K1, fed_rate_K1 = (
        5e5 * np.sum(np.log2(1 + band.snr_per_w_KM * power_w_K1), axis=1, keepdims=True)
        for band in (problem.main, problem.fed)
    )
    late_K1T, air_s_KC = late_KT[:, None, :], one.up_bits_KC / rate_K1
    fed_s_KC = 2 * np.sqrt(weight_W[1] * late_K1T[..., -2] * one.fed_bits_KC / fed_rate_K1)
    late_back_K1 = late_K1T[..., 0 if problem.share_server else 1]
    own_s_KC = late_K1T[..., 0] * one.ready_s_KC + late_back_K1 * one.back_s_KC
    air_s_KC = 2 * np.sqrt(weight_W[0] * late_K1T[..., 0] * air_s_KC)
    work_s_KC = 3 * one.work_s_KC
    if problem.share_server:
        work_s_KC = 2 * np.sqrt(weight_W[2] * late_K1T[..., 0] * one.work_s_KC)
    proved_s = np.sum(np.min(own_s_KC + air_s_KC + work_s_KC + fed_s_KC, axis=1)) - np.sum(weight_W)
    assert 0.85 * round_s < proved_s < round_s * (1 + 1e-6)


@pytest.mark.parametrize(("clients", "seed"), [(5, 2), (12, 1)])
def test_first_plans_have_many_deep_cuts_where_these_pay_only_together(clients, seed):
    problem = drawn("both ways, cuts per client, slow server", clients, seed)
    common, first = (plan(one, time_limit_s=1e-9) for one in (replace(problem, cut_per_client=False), problem))
    assert first.delay_s < 0.89 * common.delay_s  # which a longer search lowers by less than 1 %
    assert np.sum(first.cut_K > 1) > 2
