"""Where clients may differ: never worse than the best common decision, and a bound that holds for all that differ."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.problems import cell_problem, wild_problem
from wavetune.allocation.both_ways import BothWays
from wavetune.allocation.cut_matching import CutMatching
from wavetune.allocation.decision import Evaluator, fixed_options, options_of
from wavetune.allocation.effort import Clock
from wavetune.allocation.feasibility import violations, why_infeasible
from wavetune.allocation.plan import evaluate, make_plan
from wavetune.allocation.planner import plan, plan_fixed
from wavetune.allocation.power import allocate_power

SEEDS = st.integers(0, 2**32)
OPTIONS = {
    "cuts": {"cut_per_client": True},
    "shares": {"share_server": True},
    "cuts and shares": {"cut_per_client": True, "share_server": True},
}


def priced(problem):
    """The same with the way back priced, over the uplink's gains."""
    bands = {
        name: replace(band, downlink_gain_KM=band.gain_KM, downlink_power_w=20.0)
        for name, band in (("main", problem.main), ("fed", problem.fed))
    }
    return replace(problem, price_downlink=True, **bands)


def best_by_enumeration_s(problem, alike, same_rank=False):
    """Least delay over every owner of every subchannel and every cut and rank, of all clients alike or of each."""
    evaluator, K, best_s = Evaluator(problem), problem.num_clients, np.inf
    cuts = [(c,) * K for c in problem.cuts] if alike else itertools.product(problem.cuts, repeat=K)
    ranks = [(r,) * K for r in problem.ranks] if alike or same_rank else itertools.product(problem.ranks, repeat=K)
    for cut_K, rank_K in itertools.product(list(cuts), list(ranks)):
        cut_K, rank_K = np.array(cut_K), np.array(rank_K)
        if why_infeasible(problem, cut_K, rank_K):
            continue
        options = fixed_options(problem, cut_K, rank_K)
        fed_M = min(owners(problem.fed), key=lambda o: evaluator.fed_s(options, o))
        for main_M in owners(problem.main):
            best_s = min(best_s, evaluator.balance_shares(evaluator.decide(options, main_M, fed_M)).delay_s)
    return best_s


def owners(band):
    K, M = band.gain_KM.shape
    return [np.array(o) for o in itertools.product(range(K), repeat=M)]


def certified(problem, outcome):
    assert violations(problem, outcome) == []
    _, delay_s = evaluate(problem, outcome.cut_K, outcome.rank_K, outcome.main, outcome.fed, outcome.server_share_K)
    assert outcome.delay_s == delay_s
    assert np.isfinite(delay_s)
    assert 0 <= outcome.lower_bound_s <= outcome.delay_s


@pytest.mark.parametrize("way_back", [False, True], ids=["", "priced"])
@pytest.mark.parametrize("option", OPTIONS)
@settings(max_examples=8)
@given(SEEDS)
def test_bound_is_below_the_best_of_enumeration_and_the_plan_near_it(option, way_back, seed):
    common = wild_problem(seed, most_clients=2, most_subchannels=3)
    common = priced(common) if way_back else common
    problem = replace(common, **OPTIONS[option])
    outcome = plan(problem)
    if outcome.status == "ok":
        certified(problem, outcome)
        best_s = best_by_enumeration_s(problem, alike=not problem.cut_per_client)
        assert outcome.lower_bound_s <= best_s * (1 + 1e-9)
        assert outcome.delay_s <= plan(common).delay_s * (1 + 1e-9)
        if not way_back:
            assert outcome.delay_s <= best_s * 1.05


def hard_problem(seed, way_back):
    """Two clients, a server of any speed, subchannels that are dead for one of them and memory for few layers."""
    g = np.random.default_rng(seed)
    M, cuts = 4, tuple(sorted(g.choice(np.arange(1, 12), 3, replace=False).tolist()))
    problem = cell_problem(2, M, seed % 97, server_flop_per_s=10 ** g.uniform(11.5, 13), cuts=cuts)
    costs = replace(problem.costs, memory_bytes_L=np.full(12, 1e9), download_share=float(g.choice([0.25, 1.0])))

    def with_dead(band):
        alive_KM = g.random(band.gain_KM.shape) < 0.8
        alive_KM[np.arange(2), g.permutation(M)[:2]] = True
        return replace(band, gain_KM=band.gain_KM * alive_KM)

    problem = replace(
        problem,
        costs=costs,
        memory_bytes_K=1e9 * g.integers(cuts[0], 12, 2),
        rounds_to_target={1: 80.0, 8: 60.0},
        main=with_dead(problem.main),
        fed=with_dead(problem.fed),
        cut_per_client=True,
        share_server=True,
    )
    return priced(problem) if way_back else problem


@pytest.mark.parametrize("way_back", [False, True], ids=["", "priced"])
@settings(max_examples=3)
@given(SEEDS)
def test_cuts_and_shares_are_packed_to_within_little_of_the_best_of_enumeration(way_back, seed):
    problem = hard_problem(seed, way_back)
    outcome = plan(problem)
    if outcome.status == "ok":
        certified(problem, outcome)
        best_s = best_by_enumeration_s(problem, alike=False, same_rank=True)
        assert best_s * 0.8 <= outcome.lower_bound_s <= best_s * (1 + 1e-9)
        assert outcome.delay_s <= best_s * 1.02


def crowded_problem(seed, spare, way_back, shares):
    """Two or three clients whose own caps alone limit their power, with as many subchannels, and a slow server.

    With one to spare there are more for the adapters than are counted apart.
    """
    g = np.random.default_rng(seed)
    K, cuts = int(g.integers(2, 4 - spare)), tuple(sorted(g.choice(np.arange(1, 12), 2, replace=False).tolist()))
    problem = cell_problem(K, K + spare, seed % 97, server_flop_per_s=10 ** g.uniform(11.5, 13), cuts=cuts)
    costs = replace(
        problem.costs, activation_bits_L=g.uniform(1e6, 2e7, 12), download_share=float(g.choice([0.25, 1.0]))
    )
    problem = replace(
        problem, costs=costs, local_steps=2, rounds_to_target={4: 60.0}, tx_power_max_w_K=10 ** g.uniform(-4, -1, K),
        client_flop_per_s_K=10 ** g.uniform(11, 13, K), cut_per_client=True, share_server=shares,
    )  # fmt: skip
    if spare:
        problem = replace(problem, fed=cell_problem(K, 3 * K, seed % 89).fed)
    return priced(problem) if way_back else problem


def matched_bound_s(problem, goal_s, told):
    """What matching proves of all cuts at the only rank, up to a goal."""
    evaluator, (rank,), K = Evaluator(problem), problem.ranks, problem.num_clients
    ways = tuple(
        BothWays(
            tables.band, tables.problem(np.zeros(K), np.ones(K)), np.full(K, float(problem.price_downlink)), np.zeros(K)
        )
        for tables in (evaluator.main, evaluator.fed)
    )
    matching = CutMatching(
        ways, [options_of(problem, rank)], problem.local_steps, problem.costs.download_share, problem.price_downlink,
        problem.share_server, Clock(),
    )  # fmt: skip
    matching.run([[0.0] * (4 - problem.share_server)], [0.0], lambda: goal_s, told.append, None, 50)
    return matching.lower_s[0]


@pytest.mark.parametrize("shares", [False, True], ids=["", "shares"])
@pytest.mark.parametrize("way_back", [False, True], ids=["", "priced"])
@pytest.mark.parametrize("spare", [0, 1])
@settings(max_examples=3)
@given(SEEDS)
def test_own_cuts_are_matched_to_a_true_bound_and_all_of_it_with_one_subchannel_each(spare, way_back, shares, seed):
    problem, told = crowded_problem(seed, spare, way_back, shares), []
    best_s = best_by_enumeration_s(problem, alike=False)
    assert matched_bound_s(problem, 1.03 * best_s, told) <= best_s * (1 + 1e-9)
    for found in told:
        assert set(found.main_owner_M) <= {-1, *range(problem.num_clients)}
    if spare == 0:
        assert matched_bound_s(problem, 0.999 * best_s, []) >= 0.999 * best_s * (1 - 1e-6)


@settings(max_examples=12)
@given(SEEDS)
def test_mixed_ranks_never_beat_the_best_common_rank(seed):
    problem = replace(wild_problem(seed, most_clients=2, most_subchannels=3), cut_per_client=True)
    mixed_s = best_by_enumeration_s(problem, alike=False)
    assert best_by_enumeration_s(problem, alike=False, same_rank=True) <= mixed_s * (1 + 1e-9) or np.isinf(mixed_s)


@pytest.mark.parametrize("option", OPTIONS)
@settings(max_examples=5)
@given(SEEDS)
def test_larger_problems_are_certified_and_no_worse_than_common_plans(option, seed):
    common = wild_problem(seed, most_clients=8, most_subchannels=16)
    problem, before = replace(common, **OPTIONS[option]), plan(common)
    outcome = plan(problem)
    assert outcome.status == before.status
    if outcome.status == "ok":
        certified(problem, outcome)
        assert outcome.delay_s <= before.delay_s * (1 + 1e-9)
        assert outcome.lower_bound_s <= before.delay_s


@settings(max_examples=3)
@given(SEEDS)
def test_cuts_and_shares_together_are_no_worse_than_either(seed):
    common = priced(wild_problem(seed, most_clients=4, most_subchannels=8))
    together = plan(replace(common, **OPTIONS["cuts and shares"]))
    for option in ("cuts", "shares"):
        alone = plan(replace(common, **OPTIONS[option]))
        assert alone.status == together.status
        assert alone.status != "ok" or together.delay_s <= alone.delay_s * (1 + 1e-9)


@pytest.mark.parametrize(("option", "gap"), [("cuts", 0.03), ("shares", 0.05), ("cuts and shares", 0.06)])
def test_a_slow_server_makes_clients_differ_and_the_gap_stays_small(option, gap):
    speeds_K = np.random.default_rng(1).uniform(3e11, 3e12, 8)
    common = cell_problem(8, 32, server_flop_per_s=3e12, client_flop_per_s_K=speeds_K)
    problem = replace(common, **OPTIONS[option])
    outcome, before = plan(problem), plan(common)
    certified(problem, outcome)
    assert outcome.delay_s < 0.95 * before.delay_s
    assert outcome.gap < gap
    assert plan(problem, time_limit_s=1e-9).delay_s < 1.05 * outcome.delay_s  # the first plan
    assert (np.ptp(outcome.cut_K) > 0) == problem.cut_per_client
    again = plan(problem)
    assert again.delay_s == outcome.delay_s
    assert again.main.owner_M.tolist() == outcome.main.owner_M.tolist()


@settings(max_examples=12)
@given(SEEDS)
def test_given_decisions_are_planned_to_their_optimum(seed):
    problem = wild_problem(seed, most_clients=2, most_subchannels=4)
    generator = np.random.default_rng(seed)
    cut_K, rank_K = (generator.choice(x, problem.num_clients) for x in (problem.cuts, problem.ranks))
    outcome = plan_fixed(problem, cut_K, rank_K)
    assert (outcome.status == "infeasible") == bool(why_infeasible(problem, cut_K, rank_K))
    if outcome.status == "ok":
        certified(problem, outcome)
        evaluator, options = Evaluator(problem), fixed_options(problem, cut_K, rank_K)
        fed_M = min(owners(problem.fed), key=lambda o: evaluator.fed_s(options, o))
        best_s = min(evaluator.decide(options, o, fed_M).delay_s for o in owners(problem.main))
        assert outcome.lower_bound_s <= best_s * (1 + 1e-9)
        assert outcome.delay_s <= best_s * 1.001
        assert outcome.lower_bound_s >= best_s * 0.98
        warm = plan_fixed(problem, cut_K, rank_K, warm_start=outcome)
        certified(problem, warm)
        assert warm.delay_s <= outcome.delay_s * (1 + 1e-9)


@pytest.mark.parametrize("download_share", [0.25, 1.0, 4.0])
def test_what_is_searched_counts_the_way_back_in_bits_of_its_own_codec(download_share):
    problem = priced(cell_problem(3, 5, seed=3))
    problem = replace(problem, costs=replace(problem.costs, download_share=download_share))
    options = fixed_options(problem, np.array([1, 2, 1]), np.array([8, 8, 8]))
    evaluator, owner_M = Evaluator(problem), np.arange(5) % 3
    decision = evaluator.decide(options, owner_M, owner_M)
    assert decision.delay_s == pytest.approx(evaluator.plan_of(decision).delay_s, rel=1e-6)
    outcome = plan(replace(problem, cut_per_client=True))
    assert outcome.lower_bound_s <= outcome.delay_s


@settings(max_examples=12)
@given(SEEDS)
def test_powers_and_shares_balanced_together_beat_any_split_of_the_server(seed):
    generator = np.random.default_rng(seed)
    problem = replace(
        cell_problem(3, 6, seed % 100, server_flop_per_s=10 ** generator.uniform(11, 14)), share_server=True
    )
    cut_K, owner_M = generator.integers(1, 12, 3), generator.permutation(np.repeat(np.arange(3), 2))
    evaluator, options = Evaluator(problem), fixed_options(problem, cut_K, 4)
    balanced = evaluator.balance_shares(evaluator.decide(options, owner_M, owner_M))
    for share_K in (np.full(3, 1 / 3), *generator.dirichlet(np.ones(3), 30), balanced.share_K):
        after_s_K = options.work_s_KC[:, 0] / share_K + options.back_s_KC[:, 0]
        ready_s_K = options.ready_s_KC[:, 0] + after_s_K
        _, step_s = allocate_power(problem.main, owner_M, ready_s_K, options.up_bits_KC[:, 0], problem.tx_power_max_w_K)
        assert balanced.step_s <= step_s * (1 + 1e-5)


def test_ranks_are_raised_within_the_slack_and_not_beyond_the_memory():
    speeds_K = np.array([4e11, 3e12, 3e12, 3e12])
    common = cell_problem(4, 16, client_flop_per_s_K=speeds_K, rounds_to_target={1: 40.0, 2: 40.0, 4: 40.0, 8: 40.0})
    plain = plan(common)
    assert plain.rank_K.tolist() == [1] * 4
    for slack in (0.0, 0.01, 0.1):
        problem = replace(common, rank_slack=slack)
        outcome = plan(problem)
        certified(problem, outcome)
        assert outcome.delay_s <= plain.delay_s * (1 + slack) * (1 + 1e-9)
        assert np.all(outcome.rank_K >= plain.rank_K)
    assert outcome.rank_K.max() > 1
    costs = replace(common.costs, memory_bytes_per_rank_L=np.full(12, 1.0))
    limited = replace(common, costs=costs, memory_bytes_K=np.array([np.inf, 1.0, np.inf, np.inf]), rank_slack=0.1)
    assert plan(limited).rank_K[1] == 1


def test_a_clients_memory_limits_its_own_cut_alone():
    speeds_K = np.full(4, 3e12)
    costs = replace(cell_problem(1, 1).costs, memory_bytes_L=np.full(12, 1e9))
    free = cell_problem(4, 16, server_flop_per_s=2e12, client_flop_per_s_K=speeds_K, costs=costs, cut_per_client=True)
    limited = replace(free, memory_bytes_K=np.array([np.inf, 2.5e9, np.inf, np.inf]))
    outcome = plan(limited)
    certified(limited, outcome)
    assert outcome.cut_K[1] <= 2
    assert np.all(np.delete(outcome.cut_K, 1) > 2)
    assert outcome.delay_s < plan(replace(limited, cut_per_client=False)).delay_s
    hopeless = plan(replace(free, memory_bytes_K=np.array([np.inf, 2.5e9, np.inf, 5e8])))
    assert hopeless.status == "infeasible"
    assert "client 3" in hopeless.reason


@settings(max_examples=10)
@given(SEEDS)
def test_given_shares_are_kept_and_others_are_never_better(seed):
    problem = replace(cell_problem(4, 8, seed % 50), share_server=True)
    best = plan(problem, time_limit_s=0)
    share_K = np.random.default_rng(seed).dirichlet(np.ones(4))
    other = make_plan(problem, best.cut_K, best.rank_K, best.main, best.fed, server_share_K=share_K)
    assert other.server_share_K is share_K
    assert other.delay_s >= best.delay_s * (1 - 1e-9)


@pytest.mark.parametrize("option", OPTIONS)
def test_bound_and_plan_hold_whenever_the_time_is_up(option):
    common = cell_problem(6, 18, server_flop_per_s=3e12)
    problem = replace(common, **OPTIONS[option])
    patient = plan(problem, 1.0)
    for time_limit_s in (0.0, 0.05, 0.3):
        hurried = plan(problem, time_limit_s)
        certified(problem, hurried)
        assert 0 < hurried.lower_bound_s <= patient.delay_s
        assert patient.lower_bound_s <= hurried.delay_s


def test_a_cut_at_which_nothing_is_sent_makes_room_for_the_others():
    bits_L = np.array([1e6] * 11 + [0.0])
    costs = replace(cell_problem(1, 1).costs, activation_bits_L=bits_L)
    memory = {"memory_bytes_L": np.full(12, 1e9)}
    crowded = cell_problem(3, 4, costs=replace(costs, **memory), cuts=tuple(range(1, 13)))
    crowded = replace(
        crowded,
        main=replace(crowded.main, gain_KM=crowded.main.gain_KM[:, :2]),
        memory_bytes_K=np.array([np.inf, 5e9, 5e9]),
    )
    assert plan(crowded).status == "infeasible"
    outcome = plan(replace(crowded, cut_per_client=True))
    certified(crowded, outcome)
    assert outcome.cut_K[0] == 12
    assert np.all(outcome.cut_K[1:] <= 5)


@pytest.mark.parametrize("share_server", [False, True])
def test_a_client_that_nobody_hears_takes_the_cut_at_which_it_sends_nothing(share_server):
    problem = cell_problem(3, 6, cut_per_client=True, share_server=share_server, cuts=(1, 4, 9), rank_slack=0.01)
    gain_KM, bits_L = problem.main.gain_KM.copy(), problem.costs.activation_bits_L.copy()
    gain_KM[0], bits_L[8] = 0.0, 0.0
    unheard = replace(problem, main=replace(problem.main, gain_KM=gain_KM))
    assert plan(unheard).status == "infeasible"
    outcome = plan(replace(unheard, costs=replace(problem.costs, activation_bits_L=bits_L)))
    assert outcome.cut_K[0] == 9
    certified(replace(unheard, costs=replace(problem.costs, activation_bits_L=bits_L)), outcome)
