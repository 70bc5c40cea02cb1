"""A priced way back: owners serve both directions, and the bound counts both."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.problems import cell_problem
from wavetune.allocation import given_cuts, owner_program, set_packing
from wavetune.allocation.band import local_owners, ranked, vital_of_rates, vital_of_sums
from wavetune.allocation.both_ways import BothWays
from wavetune.allocation.counting import least_common_s
from wavetune.allocation.delay import downlink_rate_bit_per_s_KM, load_of
from wavetune.allocation.dual_bound import provable_delay, raise_bound, uniform_prices
from wavetune.allocation.feasibility import violations
from wavetune.allocation.gains import log_and_inverse
from wavetune.allocation.given_cuts import GivenCutsSearch
from wavetune.allocation.ladder import owners_delay
from wavetune.allocation.owner_program import Back, Found, OwnerProgram
from wavetune.allocation.plan import make_plan
from wavetune.allocation.planner import plan, plan_fixed
from wavetune.allocation.power import allocate_power
from wavetune.allocation.set_packing import pack
from wavetune.allocation.water_filling import BandProblem
from wavetune.wireless.rate_models import NrMcs, Shannon


def two_way_problem(seed):
    """Few clients with a limit on their rate, who receive more slowly than they send."""
    problem, g = cell_problem(3, 6, seed=seed), np.random.default_rng(seed)
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
    assert found.gap < 5e-3


def small_problem(g):
    """Up to three clients on up to six subchannels who ask something of the way back."""
    K = int(g.integers(1, 4))
    M = int(g.integers(K, 7))
    heard_KM = g.random((K, M)) < 0.9
    snr_per_w_KM = 10 ** g.uniform(-2, 3, (K, M)) * heard_KM
    tables = log_and_inverse(snr_per_w_KM)
    back_KM = (g.exponential(size=(K, M)) if g.random() < 0.6 else np.ones((K, M))) * heard_KM
    ask_K = g.uniform(0, 0.6) * back_KM.sum(axis=1) * (g.random(K) < 0.8)
    need_K, cap_w_K = 10 ** g.uniform(-1, 1, K), 10 ** g.uniform(-2, 1, K)
    limit = 4.0 if g.random() < 0.5 else np.inf
    problem = BandProblem(*tables, g.uniform(0, 1, K), need_K, cap_w_K, 3.0, limit, back_KM, ask_K)
    if g.random() < 0.5:
        problem = problem._replace(ranking=ranked(*tables, int(g.integers(1, M + 1))))
    vital = vital_of_rates(*tables, np.minimum(cap_w_K, 3.0), limit)
    return problem._replace(vital=vital, vital_back=vital_of_sums(back_KM)) if g.random() < 0.5 else problem


def least_up_s(problem):
    """Least delay over all owners that carry what is asked of the way back."""
    K, M = problem.log_KM.shape
    owners = (np.array(o) for o in itertools.product(range(K), repeat=M))
    carried = ((o, [problem.back_KM[k, o == k].sum() for k in range(K)]) for o in owners)
    return min((owners_delay(problem, o) for o, c in carried if np.all(c >= problem.ask_K)), default=np.inf)


@settings(max_examples=60)
@given(st.integers(0, 2**32))
def test_prices_and_packing_prove_of_both_ways_only_what_is_impossible(seed):
    g = np.random.default_rng(seed)
    problem = small_problem(g)
    (K, M), best_s = problem.log_KM.shape, least_up_s(problem)
    if not np.isfinite(best_s):
        return
    prices = uniform_prices(problem, np.arange(M) % K, 0.0, best_s)._replace(back_price_K2=g.exponential(size=(K, 2)))
    assert provable_delay(problem, prices, 1e-9, 3.0 * best_s) <= best_s
    start_s = float(np.max(problem.ready_K)) * (1 + 1e-6)
    assert raise_bound(problem, prices, start_s, 1.5 * best_s, np.inf, 1e-5 * best_s, 100)[0] <= best_s
    for delay_s in (best_s * (1 + 1e-9), 1.5 * best_s):
        for weight_M1 in (np.full(M + 1, 1 / (M + 1)), g.dirichlet(np.ones(M + 1))):
            assert pack(problem, weight_M1, np.arange(M) % K, delay_s).weight_M1 is None


def test_a_way_back_that_takes_two_of_three_subchannels_each_is_refuted_for_two_clients():
    # At 2 bit/s/Hz a subchannel 1 bit takes half a second up on any; back, 2 of 3 units are asked of both.
    problem = BandProblem(*log_and_inverse(np.full((2, 3), 3.0)), np.zeros(2), np.ones(2), np.ones(2), 10.0)
    prices = uniform_prices(problem, np.array([0, 1, 1]), 0.0, 1.0)._replace(back_price_K2=np.ones((2, 2)))
    for ask, refuted in ((0.9, False), (1.1, True)):
        asking = problem._replace(back_KM=np.ones((2, 3)), ask_K=np.array([ask, 2.0]))
        assert (pack(asking, np.full(4, 0.25), np.zeros(3, np.int64), 5.0).weight_M1 is not None) == refuted
        assert (raise_bound(asking, prices, 0.4, 5.0, np.inf, 1e-3, 100)[0] > 4.9) == refuted


def test_local_search_finds_owners_who_carry_what_is_asked():
    problem = BandProblem(*log_and_inverse(np.full((3, 6), 3.0)), np.zeros(3), np.ones(3), np.ones(3), 10.0)
    asking = problem._replace(back_KM=np.ones((3, 6)), ask_K=np.array([3.0, 2.0, 1.0]))
    owner_M = local_owners(asking, 1.0, np.zeros(6, np.int64), 5, 0)
    assert np.bincount(owner_M).tolist() == [3, 2, 1]


def between_loud_neighbours(num_clients, num_subchannels, seed):
    problem, g = cell_problem(num_clients, num_subchannels, seed=seed), np.random.default_rng(seed)

    def band(one):
        heard_w_KM = 1e-13 * g.exponential(size=one.gain_KM.shape)
        return replace(
            one, rate=Shannon(max_bit_per_s_per_hz=7.4), total_power_max_w=100.0, interference_w_M=heard_w_KM[0],
            downlink_gain_KM=one.gain_KM * g.exponential(size=one.gain_KM.shape), downlink_power_w=5.0,
            downlink_interference_w_KM=50 * heard_w_KM,
        )  # fmt: skip

    problem = replace(problem, main=band(problem.main), fed=band(problem.fed), price_downlink=True)
    return replace(problem, tx_power_max_w_K=np.full(num_clients, 0.2))


@pytest.mark.parametrize("seed", range(3))
def test_cells_between_loud_neighbours_are_planned_within_half_a_percent(seed):
    problem = between_loud_neighbours(6, 20, seed)
    found = plan(problem)
    assert violations(problem, found) == []
    assert found.gap < 5e-3


def test_the_next_round_is_planned_within_half_a_percent_where_fades_and_interference_have_changed():
    problem, g = between_loud_neighbours(20, 70, 1), np.random.default_rng(101)
    problem = problem.restrict([problem.cuts[0]], [problem.ranks[0]])

    def changed(one):
        up_KM, down_KM = (one.gain_KM * g.exponential(size=one.gain_KM.shape) for _ in range(2))
        return replace(
            one, gain_KM=up_KM, downlink_gain_KM=down_KM, interference_w_M=g.permutation(one.interference_w_M),
            downlink_interference_w_KM=g.permutation(one.downlink_interference_w_KM, axis=1),
        )  # fmt: skip

    before = plan(problem, time_limit_s=1e-9)
    found = plan(replace(problem, main=changed(problem.main), fed=changed(problem.fed)), warm_start=before)
    assert found.gap < 5e-3


def test_both_ways_are_closed_where_hardly_any_subchannel_is_heard():
    problem, g = cell_problem(20, 34, seed=3), np.random.default_rng(3)

    def band(one):
        heard_KM = g.random(one.gain_KM.shape) < 0.12
        heard_KM[np.arange(20), g.permutation(34)[:20]] = True
        gain_KM = one.gain_KM * heard_KM
        down_KM = gain_KM * g.exponential(size=gain_KM.shape)
        return replace(one, gain_KM=gain_KM, downlink_gain_KM=down_KM, downlink_power_w=0.02)

    problem = replace(problem, main=band(problem.main), fed=band(problem.fed), price_downlink=True)
    assert plan(problem.restrict([problem.cuts[0]], [8])).gap <= 2e-3


def can_be_served(band, cap_w):
    """Whether any owners leave every client a step of its rate each way, within the caps."""
    K, M = band.gain_KM.shape
    power_w_KM = band.ladder.snr_I[0] / band.envelope.gap / np.maximum(band.snr_per_w_KM, 1e-300)
    down_KM = downlink_rate_bit_per_s_KM(band)
    for owners in itertools.product(range(K), repeat=M):
        own_KM = np.array(owners) == np.arange(K)[:, None]
        least_w_K = np.min(np.where(own_KM, power_w_KM, np.inf), axis=1)
        told = bool(np.all(np.any(own_KM & (down_KM > 0), axis=1)))
        if told and np.all(least_w_K <= cap_w) and np.sum(least_w_K) <= band.total_power_max_w:
            return True
    return False


@pytest.mark.parametrize("seed", range(12))
def test_a_plan_is_found_where_any_owners_leave_everybody_a_step_of_its_rate_each_way(seed):
    problem, g = cell_problem(3, 5, seed=seed), np.random.default_rng(seed)

    def band(one, up, down):
        heard_KM, told_KM = g.random(one.gain_KM.shape) < up, g.random(one.gain_KM.shape) < down
        gain_KM = 1e-13 * g.exponential(size=heard_KM.shape)
        return replace(
            one, gain_KM=gain_KM * heard_KM, rate=NrMcs(), total_power_max_w=0.03,
            downlink_gain_KM=1e-12 * told_KM, downlink_power_w=0.2,
        )  # fmt: skip

    problem = replace(problem, main=band(problem.main, 0.6, 0.5), fed=band(problem.fed, 0.5, 0.6), price_downlink=True)
    problem = replace(problem, tx_power_max_w_K=np.full(3, 0.02), cut_per_client=seed in {3, 9})
    problem = problem.restrict(problem.cuts[:2], [8])
    served = can_be_served(problem.main, 0.02) and can_be_served(problem.fed, 0.02)
    assert plan(problem).status == ("ok" if served else "infeasible")


def test_a_band_that_cannot_be_shared_out_for_both_ways_is_named():
    """Both clients send on the first subchannel alone or on the second alone, and both receive on the second alone."""
    problem = cell_problem(2, 3, seed=0)
    heard_KM, told_KM = np.array([[1.0, 0, 0], [0, 1, 0]]), np.array([[0, 1.0, 0], [0, 1, 0]])
    main = replace(problem.main, gain_KM=1e-11 * heard_KM, downlink_gain_KM=1e-11 * told_KM, downlink_power_w=1.0)
    fed = replace(problem.fed, downlink_gain_KM=problem.fed.gain_KM, downlink_power_w=1.0)
    found = plan(replace(problem, main=main, fed=fed, price_downlink=True))
    assert found.status == "infeasible"
    assert "main band: subchannels cannot be shared out" in found.reason


@pytest.fixture(scope="module")
def slow_way_back():
    """A cell that sends much more slowly than it hears, and its plan with the pairs of cut and rank that were bounded.

    Counts are of pairs whose owners were looked for, and of those bounded by prices.
    """
    problem, g, counts = cell_problem(10, 40, seed=1), np.random.default_rng(1), {"served": 0, "bounded": -1}  # and fed

    def band(one):
        down_KM = one.gain_KM * g.exponential(size=one.gain_KM.shape)
        return replace(one, downlink_gain_KM=down_KM, downlink_power_w=0.002)

    def counted(name, function):
        def call(*args, **named):
            counts[name] += 1
            return function(*args, **named)

        return call

    problem = replace(problem, main=band(problem.main), fed=band(problem.fed), price_downlink=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner_program, "_MOST_PAIRS", 0)  # as if the band were larger
        patch.setattr(set_packing, "_MOST_HEARD", 0)
        patch.setattr(BothWays, "solve", counted("bounded", BothWays.solve))
        patch.setattr(GivenCutsSearch, "_serve_pair", counted("served", GivenCutsSearch._serve_pair))
        found = plan(problem)
    return problem, found, counts


def test_a_cut_and_rank_that_hold_neither_plan_nor_bound_up_are_not_bounded(slow_way_back):
    _, found, counts = slow_way_back
    assert found.gap < 0.03  # 0.0200 on some processors, a little less on others
    assert counts["served"] > counts["bounded"] == 1


def test_sets_that_multipliers_mix_are_told_apart_until_all_together_cost_too_much(slow_way_back):
    problem, *_ = slow_way_back
    assert plan(problem).gap < 12e-3  # 0.0200 without; 0.0098 on some processors, less on others


def test_integer_programs_that_gain_next_to_nothing_are_given_up(monkeypatch):
    asked = []
    monkeypatch.setattr(
        OwnerProgram, "_solve", lambda _, goal_s: (asked.append(goal_s) or 1.0, np.array([0]), 0.5, 0.5)
    )
    monkeypatch.setattr(OwnerProgram, "_separate", lambda *_: True)
    ones_K = np.ones(1)
    problem = BandProblem(*log_and_inverse(np.ones((1, 1))), 0.0 * ones_K, ones_K, ones_K, 1.0)
    program = OwnerProgram(problem, Back(np.ones((1, 1)), ones_K, 0.0 * ones_K), 2.0, 0.1, 0.1)
    found = program.close(Found(np.array([0]), 2.0, 0.9), 1e-3, np.inf, lambda _: 3.0)
    assert found.bound_s == pytest.approx(1.0, rel=1e-5)
    assert len(asked) < 20


def test_a_first_plan_of_a_large_band_serves_the_way_back_too(slow_way_back, monkeypatch):
    problem, found, _ = slow_way_back
    monkeypatch.setattr(given_cuts, "_QUICK", 0)  # as if there were more clients and subchannels
    assert plan(problem, time_limit_s=1e-9).delay_s < 1.05 * found.delay_s


@given(st.integers(1, 4), st.integers(1, 7), st.integers(0, 10**6))
def test_the_least_common_time_is_the_first_at_which_the_subchannels_suffice(num_clients, num_subchannels, seed):
    g = np.random.default_rng(seed)
    time_KM = -np.sort(-g.integers(1, 9, (num_clients, num_subchannels)).astype(float), axis=1)
    least_K = g.integers(1, 3, num_clients)

    def needed(time_s):
        return sum(max(least, 1 + int(np.sum(own > time_s))) for own, least in zip(time_KM, least_K, strict=True))

    fitting = [t for t in np.unique(time_KM) if needed(t) <= num_subchannels]
    found = least_common_s(time_KM, least_K, num_subchannels)
    assert np.isinf(found) if least_K.sum() > num_subchannels else needed(found) <= num_subchannels
    assert found <= min(fitting, default=np.inf)
    assert all(needed(t) > num_subchannels for t in np.unique(time_KM) if t < found)


@pytest.mark.parametrize(("given", "num_subchannels"), [(False, 6), (True, 6), (False, 3)])
def test_a_client_that_can_receive_on_no_subchannel_is_named(given, num_subchannels):
    problem = cell_problem(3, num_subchannels, seed=1)
    silent = {
        name: replace(band, downlink_gain_KM=np.full((3, num_subchannels), 1e-300), downlink_power_w=1e-30)
        for name, band in (("main", problem.main), ("fed", problem.fed))
    }
    problem = replace(problem, price_downlink=True, **silent)
    found = plan_fixed(problem, np.full(3, 2), np.full(3, 4)) if given else plan(problem)
    assert found.status == "infeasible"
    assert found.reason == "main band: client 0 can receive on no subchannel"


def test_a_first_plan_of_hardly_more_subchannels_than_clients_is_near_the_best():
    problem, g = cell_problem(12, 13, 5), np.random.default_rng(5)

    def wild(band):
        gain_KM = 10 ** g.uniform(-15, -7, (12, 13))
        return replace(band, gain_KM=gain_KM, downlink_gain_KM=gain_KM, downlink_power_w=1.0, total_power_max_w=100.0)

    problem = replace(problem, main=wild(problem.main), fed=wild(problem.fed), price_downlink=True)
    assert plan(problem, time_limit_s=1e-9).delay_s < 1.01 * plan(problem).delay_s
