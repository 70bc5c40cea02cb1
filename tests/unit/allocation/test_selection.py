"""Who takes part in a round: against every set on small cases, and what holds for any."""

import itertools
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.problems import cell_problem, wild_problem
from wavetune.allocation.feasibility import violations
from wavetune.allocation.participants import extend_plan, plan_on_channel, problem_of, restrict_plan
from wavetune.allocation.plan import make_plan
from wavetune.allocation.planner import plan
from wavetune.allocation.selection import fastest, lone_round_s, most_possible, most_within

SEEDS = st.integers(0, 2**32)


def planner_of(problem):
    return lambda clients: plan(problem_of(problem, clients))


def sets_in_time(problem, deadline_s):
    """Every set of clients whose plan ends its round by the deadline."""
    return in_time(plans_of_sets(problem), deadline_s)


def in_time(plans, deadline_s):
    return [(s, p) for s, p in plans if p.phases.round_s <= deadline_s]


def plans_of_sets(problem):
    """Every set of clients that has a plan, and its plan."""
    K = problem.num_clients
    sets = [s for n in range(1, K + 1) for s in itertools.combinations(range(K), n)]
    return [(s, p) for s in sets if (p := plan(problem_of(problem, s))).status == "ok"]


@cache
def pair_sets(seed):
    """Sets of the pair problem, which several tests compare with."""
    return plans_of_sets(pair_problem(seed))


def pair_problem(seed, num_clients=5, num_subchannels=8):
    return cell_problem(num_clients, num_subchannels, seed, cuts=(2,), rounds_to_target={4: 10.0})


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("slack", [0.35, 0.6, 0.9])
def test_as_many_clients_meet_the_deadline_as_in_the_largest_set_of_all(seed, slack):
    problem = pair_problem(seed)
    deadline_s = slack * plan(problem).phases.round_s
    lone_s_K = lone_round_s(problem, 2, 4)
    clients, outcome = most_within(planner_of(problem), deadline_s, lone_s_K, np.ones(5), least=0)
    possible = in_time(pair_sets(seed), deadline_s)
    assert len(clients) == max((len(s) for s, _ in possible), default=0)
    assert len(clients) <= most_possible(problem, 2, 4, deadline_s)
    if clients:
        assert outcome.phases.round_s <= deadline_s


@pytest.mark.parametrize("seed", range(4))
def test_samples_of_the_chosen_are_near_the_most_of_all_sets(seed):
    problem = pair_problem(seed)
    samples_K = np.random.default_rng(seed).integers(1, 50, 5).astype(float)
    deadline_s = 0.6 * plan(problem).phases.round_s
    clients, _ = most_within(planner_of(problem), deadline_s, lone_round_s(problem, 2, 4), samples_K, least=0)
    most = max((sum(samples_K[list(s)]) for s, _ in in_time(pair_sets(seed), deadline_s)), default=0.0)
    assert sum(samples_K[list(clients)]) >= 0.8 * most


@pytest.mark.parametrize("count", [1, 2, 3])
def test_fastest_set_is_near_the_fastest_of_its_size(count):
    for seed in range(3):
        problem = pair_problem(seed)
        clients, outcome = fastest(planner_of(problem), lone_round_s(problem, 2, 4), count)
        assert len(clients) == count
        best_s = min(p.phases.round_s for s, p in in_time(pair_sets(seed), np.inf) if len(s) == count)
        assert outcome.phases.round_s <= best_s * 1.05


def test_the_least_number_takes_part_even_where_the_deadline_cannot_be_met():
    problem = pair_problem(0)
    clients, outcome = most_within(planner_of(problem), 1e-6, lone_round_s(problem, 2, 4), np.ones(5), least=2)
    assert len(clients) == 2
    assert outcome.phases.round_s > 1e-6


def test_clients_without_gain_memory_or_subchannel_are_left_out():
    problem = pair_problem(1, num_clients=6, num_subchannels=4)
    gain_KM, memory_bytes_K = problem.main.gain_KM.copy(), problem.memory_bytes_K.copy()
    gain_KM[0] = 0.0
    memory_bytes_K[1] = 1.0
    costs = replace(problem.costs, memory_bytes_L=np.full(12, 10.0))
    problem = replace(problem, main=replace(problem.main, gain_KM=gain_KM), memory_bytes_K=memory_bytes_K, costs=costs)
    lone_s_K = lone_round_s(problem, 2, 4)
    assert np.isinf(lone_s_K[:2]).all()
    clients, _ = most_within(planner_of(problem), np.inf, lone_s_K, np.ones(6), least=1)
    assert clients == (2, 3, 4, 5)


@settings(max_examples=30)
@given(SEEDS)
def test_a_plan_of_some_is_the_same_plan_among_all(seed):
    problem = wild_problem(seed, most_clients=5, most_subchannels=8)
    K = problem.num_clients
    clients = np.flatnonzero(np.random.default_rng(seed).random(K) < 0.6).tolist() or [0]
    part = plan(problem_of(problem, clients))
    if part.status != "ok":
        assert extend_plan(part, clients, np.ones(K, int), np.ones(K, int)).status == "infeasible"
        return
    whole = extend_plan(part, clients, np.full(K, part.cut_K[0]), np.full(K, part.rank_K[0]))
    assert whole.phases.round_s == part.phases.round_s
    assert whole.energy.total_j == pytest.approx(part.energy.total_j, rel=1e-12)
    assert np.flatnonzero(whole.active_K).tolist() == clients
    assert set(whole.main.owner_M.tolist()) <= {*clients, -1}
    again = restrict_plan(whole, clients)
    assert violations(problem_of(problem, clients), again) == []
    made = make_plan(problem_of(problem, clients), again.cut_K, again.rank_K, again.main, again.fed)
    assert made.delay_s == pytest.approx(part.delay_s, rel=1e-12)
    assert plan_on_channel(problem, whole).delay_s == pytest.approx(part.delay_s, rel=1e-12)


@settings(max_examples=20)
@given(SEEDS, st.floats(0.1, 1.5))
def test_no_more_clients_meet_a_deadline_than_counting_subchannels_allows(seed, slack):
    problem = wild_problem(seed, most_clients=4, most_subchannels=6)
    problem = replace(problem, cuts=problem.cuts[-1:], rounds_to_target={1: 1.0})
    everyone = plan(problem)
    deadline_s = slack * everyone.phases.round_s if everyone.status == "ok" else 100.0
    most = max((len(s) for s, _ in sets_in_time(problem, deadline_s)), default=0)
    assert most <= most_possible(problem, problem.cuts[0], 1, deadline_s)
