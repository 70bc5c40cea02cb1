import numpy as np
import pytest

from helpers.problems import cell_problem
from wavetune.allocation.baselines import (
    plan_all_random,
    plan_baselines,
    plan_random_cut,
    plan_random_rank,
    plan_random_subchannels,
)
from wavetune.allocation.feasibility import violations
from wavetune.allocation.greedy import plan_sflllm
from wavetune.allocation.planner import plan

PROBLEM = cell_problem(5, 20, seed=2)
SEEDED = (plan_all_random, plan_random_subchannels, plan_random_cut, plan_random_rank)


@pytest.mark.parametrize("baseline", SEEDED)
def test_a_seed_fixes_the_choice_and_another_changes_it(baseline):
    same = [baseline(PROBLEM, seed=3).delay_s for _ in range(2)]
    assert same[0] == same[1]
    assert len({baseline(PROBLEM, seed=seed).delay_s for seed in range(8)}) > 1


def test_every_baseline_is_feasible_and_above_the_bound():
    lower_s = plan(PROBLEM).lower_bound_s
    for outcome in plan_baselines(PROBLEM, seed=1).values():
        assert violations(PROBLEM, outcome) == []
        assert outcome.delay_s >= lower_s


def test_what_is_random_costs_and_what_is_optimised_helps():
    def mean_s(baseline):
        return np.mean([baseline(PROBLEM, seed).delay_s for seed in range(10)])

    greedy_s = plan_sflllm(PROBLEM).delay_s
    assert mean_s(plan_all_random) > mean_s(plan_random_subchannels) > greedy_s
    assert mean_s(plan_random_cut) > greedy_s
    assert mean_s(plan_random_rank) > greedy_s


def test_the_planner_of_the_rest_can_be_chosen():
    for baseline in (plan_random_cut, plan_random_rank):
        assert baseline(PROBLEM, 5, planner=plan).delay_s <= baseline(PROBLEM, 5).delay_s
