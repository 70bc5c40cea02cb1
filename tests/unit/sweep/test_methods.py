import pytest

from helpers.problems import cell_problem
from wavetune.errors import ConfigError
from wavetune.sweep.methods import METHODS, NAMES, PROPOSED, methods_of

PROBLEM = cell_problem(3, 9, seed=2)


@pytest.fixture(scope="module")
def bound_s():
    return METHODS[PROPOSED].plan(PROBLEM, 0).lower_bound_s


@pytest.mark.parametrize("name", METHODS)
def test_no_method_is_below_the_proposed_planners_bound_and_a_seed_gives_one_plan(name, bound_s):
    method = METHODS[name]
    problem = method.poses(PROBLEM)
    plans = [method.plan(problem, 5) for _ in range(2)]
    assert plans[0].status == "ok"
    assert plans[0].delay_s == plans[1].delay_s
    assert plans[0].delay_s >= bound_s > 0 or problem is not PROBLEM


@pytest.mark.parametrize("name", METHODS)
def test_every_method_says_that_there_is_no_plan_where_there_is_none(name):
    plan = METHODS[name].plan(METHODS[name].poses(cell_problem(4, 3)), 0)
    assert plan.status == "infeasible"
    assert "3 subchannels for 4 clients" in plan.reason


def test_all_methods_are_compared_by_default_and_the_bound_brings_its_planner():
    assert methods_of(None) == NAMES
    assert methods_of("bound") == ("proposed", "bound")
    assert methods_of("greedy") == ("greedy",)


@pytest.mark.parametrize(("text", "word"), [("gredy", "did you mean 'greedy'"), ("", "names none"), (",", "choose")])
def test_methods_that_do_not_exist_are_refused(text, word):
    with pytest.raises(ConfigError, match=word):
        methods_of(text)
