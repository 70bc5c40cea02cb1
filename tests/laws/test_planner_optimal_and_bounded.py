"""The planner's promises: feasible plans, the optimum where all plans can be enumerated, a bound that always holds."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.problems import absurd_problem, brute_force_delay_s, cell_problem, wild_problem
from wavetune.allocation.baselines import plan_baselines
from wavetune.allocation.feasibility import violations
from wavetune.allocation.greedy import plan_sflllm
from wavetune.allocation.instance import plan_to_json, problem_from_json, problem_to_json, read_instance
from wavetune.allocation.plan import evaluate
from wavetune.allocation.planner import plan

SEEDS = st.integers(0, 2**32)


def assert_certified(problem, outcome):
    """A plan keeps the constraints, costs what the objective says, and is not below its own bound."""
    assert violations(problem, outcome) == []
    _, delay_s = evaluate(problem, outcome.cut_K, outcome.rank_K, outcome.main, outcome.fed)
    assert outcome.delay_s == delay_s
    assert np.isfinite(delay_s)
    assert 0 <= outcome.lower_bound_s <= outcome.delay_s


@settings(max_examples=60)
@given(SEEDS)
def test_plan_is_the_optimum_of_enumeration_and_its_bound_is_below(seed):
    problem = wild_problem(seed, most_clients=3, most_subchannels=6)
    outcome, best_s = plan(problem), brute_force_delay_s(problem)
    assert (outcome.status == "infeasible") == np.isinf(best_s)
    if outcome.status == "ok":
        assert_certified(problem, outcome)
        assert outcome.lower_bound_s <= best_s * (1 + 1e-12)
        assert outcome.delay_s <= best_s * 1.001
        assert outcome.lower_bound_s >= best_s * 0.99


@settings(max_examples=40)
@given(SEEDS)
def test_any_other_plan_is_above_the_bound(seed):
    problem = wild_problem(seed, most_clients=20, most_subchannels=50)
    outcome = plan(problem)
    if outcome.status == "ok":
        assert_certified(problem, outcome)
        others = plan_baselines(problem, seed)
        assert all(violations(problem, other) == [] for other in others.values())
        assert outcome.delay_s <= min(other.delay_s for other in others.values()) * (1 + 1e-9)


@pytest.mark.parametrize(("num_clients", "num_subchannels"), [(10, 40), (20, 80), (50, 200)])
@pytest.mark.parametrize("seed", [0, 1])
def test_cells_are_planned_within_one_percent_of_the_bound(num_clients, num_subchannels, seed):
    problem = cell_problem(num_clients, num_subchannels, seed)
    outcome = plan(problem)
    assert_certified(problem, outcome)
    assert outcome.gap < 0.01
    assert outcome.delay_s <= plan_sflllm(problem).delay_s


def test_flat_gains_are_solved_by_counting():
    outcome = plan(cell_problem(15, 50, fading=False))
    assert outcome.gap < 2e-4


@pytest.mark.parametrize("name", ["hand", "rayleigh-3x7", "rayleigh-10x40", "flat-15x50"])
def test_examples_reach_the_best_known_delay_and_bound(shared, name):
    folder = shared / "formats" / "examples"
    answer = json.loads((folder / "answers.json").read_text())[name]
    problem = read_instance(folder / f"{name}.json")
    outcome = plan(problem)
    assert_certified(problem, outcome)
    assert outcome.delay_s <= answer["best_known_s"] * 1.0005
    assert outcome.lower_bound_s >= answer["lower_bound_s"] * 0.9995
    assert outcome.lower_bound_s <= answer["best_known_s"]
    assert (outcome.cut_K[0], outcome.rank_K[0]) == (answer["cut"], answer["rank"])


@settings(max_examples=20)
@given(SEEDS, st.floats(0, 0.02))
def test_bound_and_plan_hold_whenever_the_time_is_up(seed, time_limit_s):
    problem = wild_problem(seed, most_clients=4, most_subchannels=8)
    hurried, patient = plan(problem, time_limit_s=time_limit_s), plan(problem)
    assert hurried.status == patient.status
    if hurried.status == "ok":
        assert_certified(problem, hurried)
        assert hurried.lower_bound_s <= patient.delay_s * (1 + 1e-12)
        assert patient.lower_bound_s <= hurried.delay_s * (1 + 1e-12)


def test_planning_twice_gives_the_same_plan():
    problem = cell_problem(8, 24, seed=3)
    first, second = plan(problem), plan(problem)
    assert first.delay_s == second.delay_s
    assert first.lower_bound_s == second.lower_bound_s
    np.testing.assert_array_equal(first.main.owner_M, second.main.owner_M)


@settings(max_examples=20)
@given(SEEDS)
def test_warm_start_is_certified_and_no_worse_than_where_it_starts(seed):
    problem = wild_problem(seed, most_clients=6, most_subchannels=12)
    before = plan(problem)
    if before.status == "ok":
        again = plan(problem, warm_start=before)
        assert_certified(problem, again)
        assert again.delay_s <= before.delay_s * (1 + 1e-9)


def test_warm_start_of_another_shape_is_no_obstacle():
    before = plan(cell_problem(5, 20, seed=1))
    problem = cell_problem(6, 18, seed=2)
    assert_certified(problem, plan(problem, warm_start=before))


@settings(max_examples=30)
@given(SEEDS)
def test_priced_downlink_costs_time_and_keeps_the_bound(seed):
    plain = wild_problem(seed, most_clients=3, most_subchannels=4)
    bands = {
        name: replace(band, downlink_gain_KM=band.gain_KM, downlink_power_w=20.0)
        for name, band in (("main", plain.main), ("fed", plain.fed))
    }
    priced = replace(plain, price_downlink=True, **bands)
    free, outcome = plan(plain), plan(priced)
    if free.status == "ok":
        assert_certified(priced, outcome)
        assert outcome.delay_s >= free.lower_bound_s
        assert outcome.lower_bound_s >= free.lower_bound_s * (1 - 1e-3)
        assert outcome.lower_bound_s <= brute_force_delay_s(priced) * (1 + 1e-12)


@pytest.mark.parametrize(("num_clients", "num_subchannels"), [(1, 1), (1, 30), (40, 40), (200, 450)])
def test_extreme_shapes_are_planned(num_clients, num_subchannels):
    problem = cell_problem(num_clients, num_subchannels)
    assert_certified(problem, plan(problem))


def test_thousands_of_clients_are_planned():
    problem = cell_problem(2000, 2500)
    assert_certified(problem, plan(problem, time_limit_s=0))


@settings(max_examples=60)
@given(SEEDS)
def test_numbers_beyond_all_physics_are_planned_without_a_warning(seed):
    problem = absurd_problem(seed)
    outcome = plan(problem)
    if outcome.status == "ok":
        assert_certified(problem, outcome)
        assert_certified(problem, plan(problem, warm_start=outcome))
        assert_certified(problem, plan(problem, time_limit_s=0))
        json.dumps(plan_to_json(outcome), allow_nan=False)


def test_unpriced_work_takes_no_time():
    nothing = cell_problem(3, 6)
    costs = type(nothing.costs)(*(np.zeros(12) for _ in range(8)))
    outcome = plan(replace(nothing, costs=costs))
    assert (outcome.delay_s, outcome.lower_bound_s, outcome.gap) == (0.0, 0.0, 0.0)


def test_problem_survives_its_json_form():
    problem = wild_problem(5)
    again = problem_from_json(json.loads(json.dumps(problem_to_json(problem))))
    assert plan(again).delay_s == plan(problem).delay_s
