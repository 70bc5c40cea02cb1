"""Small bands whose clients have cuts of their own, both ways priced, against every owner and every cut."""

import importlib.util
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from wavetune.allocation.cut_packing import Asks, SetsOfBand
from wavetune.allocation.decision import Evaluator, options_of
from wavetune.allocation.delay import downlink_rate_bit_per_s_KM, transfer_s
from wavetune.allocation.feasibility import violations
from wavetune.allocation.planner import plan


@pytest.fixture(scope="module")
def problem_of():
    """Problems of the benchmark's classes."""
    path = Path(__file__).parents[3] / "benchmarks" / "planner_classes.py"
    spec = importlib.util.spec_from_file_location("planner_classes", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.problem_of


@pytest.fixture(scope="module")
def problem(problem_of):
    """Three clients of different speeds, seven subchannels, five cuts between unequal layers and a slow server."""
    return problem_of("both ways, cuts per client, slow server", 3, 7, 1).restrict([2, 4, 5, 8, 11], [4])


def rates_of_sets(band, caps_w_K):
    """What every set of subchannels carries up and down (bit/s) at each client's cap, [K, sets]."""
    K, M = band.gain_KM.shape
    set_SM = np.arange(1 << M)[:, None] >> np.arange(M) & 1
    inverse_K1M = 1 / band.snr_per_w_KM[:, None]
    full_w_K1M = (2**band.envelope.most - 1) * inverse_K1M
    low_KS1, high_KS1 = np.zeros((K, 1 << M, 1)), np.full((K, 1 << M, 1), 1e3)
    for _ in range(60):
        level_KS1 = 0.5 * (low_KS1 + high_KS1)
        power_w_KSM = set_SM * np.clip(level_KS1 - inverse_K1M, 0, full_w_K1M)
        over_KS1 = np.sum(power_w_KSM, axis=2, keepdims=True) > caps_w_K[:, None, None]
        low_KS1, high_KS1 = np.where(over_KS1, low_KS1, level_KS1), np.where(over_KS1, level_KS1, high_KS1)
    up_KS = band.effective_hz * np.sum(np.log2(1 + power_w_KSM / inverse_K1M), axis=2)
    return up_KS, downlink_rate_bit_per_s_KM(band) @ set_SM.T


def both_rates(band, caps_w_K):
    """What every owner of every subchannel leaves to each client up and down (bit/s), [K, owners]."""
    K, M = band.gain_KM.shape
    up, down = rates_of_sets(band, caps_w_K)
    owner_OM = np.array(list(itertools.product(range(K), repeat=M)))
    mask_KO = np.array([((owner_OM == k) << np.arange(M)).sum(axis=1) for k in range(K)])
    return np.take_along_axis(up, mask_KO, axis=1), np.take_along_axis(down, mask_KO, axis=1)


def served_by_shares_s(other_s_KO, work_s_K1):
    """When all are done with the best shares of the server, which take up all of it, [owners]."""
    low_s_O, high_s_O = np.max(other_s_KO, axis=0), np.max(other_s_KO, axis=0) + np.sum(work_s_K1)
    for _ in range(50):
        middle_s_O = 0.5 * (low_s_O + high_s_O)
        with np.errstate(invalid="ignore"):
            late_O = np.sum(work_s_K1 / (middle_s_O - other_s_KO), axis=0) > 1
        low_s_O, high_s_O = np.where(late_O, middle_s_O, low_s_O), np.where(late_O, high_s_O, middle_s_O)
    return high_s_O


def best_of_all_s(problem):
    """Least delay over every owner and every client's cut, each at its own power, which the total does not limit."""
    options, rates = options_of(problem, problem.ranks[0]), {}
    for name in ("main", "fed"):
        up, down = both_rates(vars(problem)[name], problem.tx_power_max_w_K)
        rates[name] = up, down if problem.price_downlink else np.full(down.shape, np.inf)
    best_s = np.inf
    for choice in itertools.product(range(options.num_cuts), repeat=problem.num_clients):
        one = options.of(np.array(choice))
        if not np.all(one.allowed_KC):
            continue
        up_s = one.ready_s_KC + transfer_s(one.up_bits_KC, rates["main"][0])
        down_s = one.back_s_KC + transfer_s(one.down_bits_KC, rates["main"][1])
        fed_s = [transfer_s(one.fed_bits_KC, rate_KO).max(axis=0) for rate_KO in rates["fed"]]
        if problem.share_server:
            step_s = np.min(served_by_shares_s(up_s + down_s, one.work_s_KC))
        else:
            step_s = np.min(up_s.max(axis=0) + down_s.max(axis=0)) + np.sum(one.work_s_KC)
        round_s = problem.local_steps * step_s + np.min(fed_s[0] + problem.costs.download_share * fed_s[1])
        best_s = min(best_s, one.rounds * round_s)
    return best_s


@pytest.mark.parametrize("share", [1.0, 0.1, 4.0])
def test_own_cuts_both_ways_are_the_best_of_all_and_nearly_proved(problem, share):
    costs = replace(problem.costs, download_share=share, lora_bits_per_rank_L=4 * problem.costs.lora_bits_per_rank_L)
    problem = replace(problem, costs=costs)
    outcome, best_s = plan(problem), best_of_all_s(problem)
    assert violations(problem, outcome) == []
    assert best_s * (1 - 1e-5) <= outcome.delay_s <= best_s * 1.001
    assert outcome.lower_bound_s <= best_s * (1 + 1e-5)
    assert outcome.gap < 0.002


def test_own_cuts_and_shares_of_the_server_are_the_best_of_all_and_nearly_proved(problem):
    problem = replace(problem, share_server=True)
    outcome, best_s = plan(problem), best_of_all_s(problem)
    assert violations(problem, outcome) == []
    assert best_s * (1 - 1e-5) <= outcome.delay_s <= best_s * 1.001
    assert outcome.lower_bound_s <= best_s * (1 + 1e-5)
    assert outcome.gap < 0.005


def test_shares_of_the_server_with_one_cut_for_all_are_the_best_of_all_and_nearly_proved(problem):
    problem = replace(problem, share_server=True, cut_per_client=False)
    outcome, best_s = plan(problem), min(best_of_all_s(problem.restrict([cut])) for cut in problem.cuts)
    assert best_s * (1 - 1e-5) <= outcome.delay_s <= best_s * 1.001
    assert outcome.lower_bound_s <= best_s * (1 + 1e-5)
    assert outcome.gap < 0.002


def test_clients_that_only_receive_keep_what_they_receive_on(problem):
    few, costs = problem.restrict([5, 11]), problem.costs
    nothing_L = np.where(np.arange(costs.num_layers) == 10, 0.0, costs.activation_bits_L)
    few = replace(few, costs=replace(costs, activation_bits_L=nothing_L, gradient_bits_L=costs.activation_bits_L))
    outcome, best_s = plan(few), best_of_all_s(few)
    assert 11 in outcome.cut_K
    assert best_s * (1 - 1e-5) <= outcome.delay_s <= best_s * 1.001


@pytest.mark.parametrize("seed", range(3))
def test_own_cuts_whose_way_back_takes_no_time_are_proved_no_better_than_the_best_of_all(problem_of, seed):
    problem = problem_of("both ways, cuts per client, slow server", 3, 6, seed).restrict([2, 4, 5, 8, 11], [4])
    problem = replace(problem, price_downlink=False)
    outcome, best_s = plan(problem), best_of_all_s(problem)
    assert violations(problem, outcome) == []
    assert best_s * (1 - 1e-5) <= outcome.delay_s <= best_s * 1.001
    assert outcome.lower_bound_s <= best_s * (1 + 1e-5)
    assert outcome.gap < 0.002


@pytest.mark.parametrize(
    ("kind", "clients", "subchannels", "seed"),
    [("both ways, cuts per client", 5, 20, 1), ("cuts per client, slow server", 4, 12, 2)],
)
def test_choices_of_cuts_that_prices_leave_open_are_closed_one_by_one(problem_of, kind, clients, subchannels, seed):
    problem = problem_of(kind, clients, subchannels, seed)
    outcome = plan(problem)
    assert violations(problem, outcome) == []
    assert outcome.gap < 0.003


def test_cuts_of_several_clients_change_together_where_none_alone_pays(problem_of, monkeypatch):
    monkeypatch.setattr("wavetune.allocation.decision_search._PACKED_UPLINK", 0)  # as in a larger band
    problem = problem_of("cuts per client, slow server", 5, 20, 3)
    outcome = plan(problem)
    assert violations(problem, outcome) == []
    assert outcome.gap < 0.002


@pytest.mark.parametrize(
    ("kind", "clients", "subchannels", "seed", "best_known_s"),
    [("cuts per client, slow server", 12, 40, 1, 2267.6), ("cuts and shares, slow server", 7, 29, 0, 1380.8)],
)
def test_first_plans_are_near_the_best_known(problem_of, kind, clients, subchannels, seed, best_known_s):
    first = plan(problem_of(kind, clients, subchannels, seed), time_limit_s=1e-9)
    assert first.delay_s < 1.01 * best_known_s


def test_shares_are_packed_in_larger_bands_than_cuts_alone_where_the_way_back_takes_no_time(problem_of):
    problem = problem_of("cuts and shares, slow server", 3, 68, 0)
    outcome = plan(problem)
    assert violations(problem, outcome) == []
    assert outcome.gap < 0.005


def choices_of_sets(band, caps_w_K):
    """Up (bit/s), down (bit/s) and power (W) of every set of subchannels at water levels up to each cap, [K, S, L]."""
    K, M = band.gain_KM.shape
    set_SM = np.arange(1 << M)[:, None] >> np.arange(M) & 1
    inverse_K11M = 1 / band.snr_per_w_KM[:, None, None]
    full_w_K11M = (2**band.envelope.most - 1) * inverse_K11M
    level_KS1 = np.full((K, 1 << M, 1), 1e-300)
    high_KS1 = np.full((K, 1 << M, 1), 1e3)
    for _ in range(60):
        middle_KS1 = np.sqrt(level_KS1 * high_KS1)
        over_KS1 = np.sum(
            set_SM * np.clip(middle_KS1 - inverse_K11M[:, 0], 0, full_w_K11M[:, 0]), axis=2, keepdims=True
        )
        over_KS1 = over_KS1 > caps_w_K[:, None, None]
        level_KS1, high_KS1 = np.where(over_KS1, level_KS1, middle_KS1), np.where(over_KS1, middle_KS1, high_KS1)
    lowest_K1 = np.min(inverse_K11M, axis=(2, 3))
    highest_KS = np.maximum(level_KS1[..., 0], lowest_K1 * (1 + 1e-9))
    level_KSL = lowest_K1[..., None] * (highest_KS / lowest_K1)[..., None] ** np.linspace(0, 1, 500)
    power_w_KSLM = set_SM[:, None] * np.clip(level_KSL[..., None] - inverse_K11M, 0, full_w_K11M)
    up_KSL = band.effective_hz * np.sum(np.log2(1 + power_w_KSLM / inverse_K11M), axis=3)
    return up_KSL, (downlink_rate_bit_per_s_KM(band) @ set_SM.T)[..., None], np.sum(power_w_KSLM, axis=3)


def test_prices_of_cuts_are_the_least_over_all_sets_and_powers(problem):
    """A set pays for subchannels, watts and seconds, for none less than for the first second that counts."""
    evaluator, one = Evaluator(problem), options_of(problem, problem.ranks[0])
    band, (K, M) = problem.main, problem.main.gain_KM.shape
    asks = Asks(one.up_bits_KC / band.effective_hz, one.ready_s_KC, one.down_bits_KC, one.back_s_KC)
    set_SM = np.arange(1 << M)[:, None] >> np.arange(M) & 1
    up_KSL, down_KS1, power_w_KSL = choices_of_sets(band, problem.tx_power_max_w_K)
    up_s_KCSL = one.ready_s_KC[..., None, None] + transfer_s(one.up_bits_KC[..., None, None], up_KSL[:, None])
    down_s_KCS1 = one.back_s_KC[..., None, None] + transfer_s(one.down_bits_KC[..., None, None], down_KS1[:, None])
    g = np.random.default_rng(0)
    for _ in range(20):
        edges_22 = [np.quantile(x[np.isfinite(x)], g.uniform(0.02, 0.4)) for x in (up_s_KCSL, down_s_KCS1)]
        edges_22 = np.array(edges_22)[:, None] * np.array([1.0, g.uniform(1.5, 5.0)])
        weight_M1, late_K2 = np.append(g.random(M), 10 ** g.uniform(-6, 5)), g.random((K, 2))
        hears_KM = g.random((K, M)) < 0.9
        value_KCSL = late_K2[:, :1, None, None] * np.maximum(up_s_KCSL, edges_22[0, 0])
        value_KCSL += late_K2[:, 1:, None, None] * np.maximum(down_s_KCS1, edges_22[1, 0])
        value_KCSL += weight_M1[M] / band.total_power_max_w * power_w_KSL[:, None] + (set_SM @ weight_M1[:M])[:, None]
        value_KCSL[(up_s_KCSL > edges_22[0, 1]) | (down_s_KCS1 > edges_22[1, 1])] = np.inf
        value_KCSL[np.broadcast_to((set_SM @ ~hears_KM.T > 0).T[:, None, :, None], value_KCSL.shape)] = np.inf
        best_KC = np.where(one.allowed_KC, np.min(value_KCSL, axis=(2, 3)), np.inf)
        found_KC = SetsOfBand(evaluator.main, True).cheapest(
            asks, edges_22, one.allowed_KC, hears_KM, weight_M1, late_K2, 10.0
        )
        assert np.all(found_KC <= best_KC * (1 + 1e-6))
        assert np.all(found_KC >= np.where(np.isfinite(best_KC), best_KC, 0.0) * (1 - 3e-3))
