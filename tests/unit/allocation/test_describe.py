from dataclasses import replace

import pytest

from helpers.problems import cell_problem
from wavetune.allocation.describe import bottleneck, sensitivities
from wavetune.allocation.instance import read_instance
from wavetune.allocation.plan import infeasible
from wavetune.allocation.planner import plan


def test_shares_of_the_worked_example_are_those_computed_by_hand(shared):
    problem = read_instance(shared / "formats" / "examples" / "hand.json")
    found = bottleneck(problem, plan(problem))
    # Of 2 * 5 s + 2 s: (1 + 2) s until the activations are there, 1 s at the server, 1 s backward, 2 s adapters.
    assert found.share == pytest.approx(
        {"activations": 6 / 12, "server": 2 / 12, "gradients": 2 / 12, "adapters": 2 / 12}
    )
    assert (found.phase, found.limit) == ("uplink", "own power")
    assert found.sentence.startswith("50% of a round passes until the last activations arrive; client 0 ")


def test_the_client_that_computes_slowly_is_the_bottleneck():
    problem = cell_problem(4, 40, seed=1)
    speeds = problem.client_flop_per_s_K.copy()
    speeds[2] /= 1000
    slow = replace(problem, client_flop_per_s_K=speeds)
    found = bottleneck(slow, plan(slow))
    assert (found.client, found.limit) == (2, "compute")


def test_bandwidth_helps_most_where_sending_takes_most_of_the_time():
    problem = cell_problem(4, 12, seed=1)
    outcome = plan(problem)
    found = sensitivities(problem, outcome, change=0.2)
    assert found[0].resource == "main-band bandwidth"
    assert 0.05 < found[0].saving < 0.2
    assert [s.saving for s in found] == sorted((s.saving for s in found), reverse=True)
    assert {s.resource: s.saving for s in found}["server compute"] > 0


def test_an_infeasible_plan_has_no_sensitivities():
    assert sensitivities(cell_problem(2, 3), infeasible("no power")) == []
