import re
from dataclasses import replace

import numpy as np
import pytest

from helpers.problems import cell_problem, layer_costs
from wavetune.allocation.baselines import plan_baselines
from wavetune.allocation.feasibility import check_feasible, match_subchannels, violations, why_infeasible
from wavetune.allocation.greedy import plan_sflllm
from wavetune.allocation.plan import Allocation, make_plan
from wavetune.allocation.planner import plan
from wavetune.errors import ConfigError


def with_gain(problem, gain_KM, band="main"):
    return replace(problem, **{band: replace(getattr(problem, band), gain_KM=np.array(gain_KM, dtype=float))})


CELL = cell_problem(3, 4)
DEAF = [[1e-9] * 4, [0.0] * 4, [1e-9] * 4]
CROWD = [[1e-9, 0, 0, 0], [1e-9, 0, 0, 0], [1e-9] * 4]


@pytest.mark.parametrize(
    ("problem", "named"),
    [
        (with_gain(CELL, np.full((3, 2), 1e-9)), "main band: 2 subchannels for 3 clients with activations to send"),
        (with_gain(CELL, np.full((3, 1), 1e-9), "fed"), "fed band: 1 subchannels for 3 clients"),
        (with_gain(CELL, DEAF), "main band: client 1 .* zero gain"),
        (with_gain(CELL, CROWD), "main band: clients 0, 1 .* only 1 subchannels"),
        (replace(CELL, tx_power_max_w_K=np.array([1.0, 1.0, 0.0])), "tx_power_max_w of client 2 .* is 0"),
        (replace(CELL, fed=replace(CELL.fed, total_power_max_w=0.0)), "fed band: total_power_max_w is 0"),
        (
            replace(CELL, costs=layer_costs(12, memory_bytes=1e9), memory_bytes_K=np.array([np.inf, 1e8, 1e12])),
            "memory: client 1 has 1e.08 bytes, cut 1 with rank 1 needs 1e.09",
        ),
    ],
)
def test_infeasible_problem_names_the_binding_limit_in_every_planner(problem, named):
    outcomes = [plan(problem), plan_sflllm(problem), *plan_baselines(problem, seed=1).values()]
    for outcome in outcomes:
        assert outcome.status == "infeasible"
        assert np.isinf(outcome.delay_s)
        assert re.search(named, outcome.reason)


def test_memory_rules_out_deep_cuts_only():
    problem = replace(CELL, costs=layer_costs(12, memory_bytes=1e9), memory_bytes_K=np.array([np.inf, 3.5e9, 1e12]))
    assert {cut for cut, _ in check_feasible(problem).pairs} == {1, 2, 3}


def test_a_client_without_anything_to_send_needs_no_subchannel():
    silent = replace(with_gain(CELL, DEAF), costs=layer_costs(12, activation_bits=0.0))
    outcome = plan(silent)
    assert outcome.status == "ok"
    assert violations(silent, outcome) == []
    assert np.all(outcome.phases.uplink_s == 0)


def test_matching_serves_everyone_where_greed_would_not():
    usable_KM = np.array([[True, True, False], [True, False, False], [False, True, True]])
    matched = match_subchannels(usable_KM)
    assert sorted(matched.tolist()) == [0, 1, 2]
    assert all(usable_KM[k, i] for k, i in enumerate(matched))


def test_matched_clients_are_planned_where_strong_ones_would_take_all_they_hear():
    problem = with_gain(CELL, [[9e-8, 1e-8, 0, 0], [1e-9, 0, 0, 0], [0, 5e-9, 0, 1e-9]])
    for outcome in (plan(problem), plan_sflllm(problem)):
        assert violations(problem, outcome) == []


@pytest.mark.parametrize(
    ("owner", "power", "named"),
    [
        ([0, 1, 2, 2], [1.0, 1.0, 1.0, 1.0], "client 2 exceeds its power"),
        ([0, 1, 2, 2], [1.0, 1.0, 0.7, 0.7], "the powers exceed the total"),
        ([0, 1, 1, 1], [0.1, 0.1, 0.1, 0.1], "client 2 has bits but no rate"),
        ([0, 1, 2, 2], [0.1, 0.1, 0.0, 0.0], "client 2 has bits but no rate"),
        ([0, 1, 2, -1], [0.1, 0.1, 0.1, 0.1], "no owner"),
        ([0, 1, 2, 2], [0.1, 0.1, -0.1, 0.1], "negative"),
        ([0, 1, 3, 2], [0.1, 0.1, 0.1, 0.1], "owners from -1 to 2"),
        ([0, 1, 2], [0.1, 0.1, 0.1], "must have 4 entries"),
    ],
)
def test_each_broken_constraint_is_named(owner, power, named):
    problem = replace(CELL, main=replace(CELL.main, total_power_max_w=3.0))
    fine = Allocation(np.array([0, 1, 2, 2]), np.full(4, 0.1))
    plan_of = make_plan(problem, 1, 1, fine, fine)
    broken = replace(plan_of, main=Allocation(np.array(owner), np.array(power)))
    assert violations(problem, plan_of) == []
    assert any(named in sentence for sentence in violations(problem, broken))


def test_a_cut_or_rank_that_is_not_allowed_is_named():
    problem = CELL.restrict(cuts=[2], ranks=[4])
    fine = Allocation(np.array([0, 1, 2, 2]), np.full(4, 0.1))
    found = violations(problem, make_plan(CELL, 1, 1, fine, fine))
    assert found == ["cut 1 is not allowed", "rank 1 is not allowed"]


@pytest.mark.parametrize("kept", [{"cuts": []}, {"cuts": [40]}, {"ranks": [3]}])
def test_restricting_to_what_is_not_allowed_is_refused(kept):
    with pytest.raises(ConfigError, match="must be one or more of the allowed"):
        CELL.restrict(**kept)


SOME_SEND = replace(CELL, costs=replace(CELL.costs, activation_bits_L=np.array([0.0] + [1e6] * 11)))
CUTS, RANKS = np.array([1, 2, 3]), np.array([8, 4, 1])  # client 0 cuts where nothing crosses
MEMORY = replace(CELL, costs=layer_costs(12, memory_bytes=1e9))


@pytest.mark.parametrize(
    ("problem", "named"),
    [
        (with_gain(SOME_SEND, [[1e-9] * 4, [1e-9] * 4, [0.0] * 4]), "main band: client 2 .* zero gain"),
        (with_gain(SOME_SEND, [[1e-9] * 4, *[[1e-9, 0, 0, 0]] * 2]), "main band: clients 1, 2 .* only 1 subchannels"),
        (replace(SOME_SEND, tx_power_max_w_K=np.array([1.0, 1.0, 0.0])), "main band: tx_power_max_w of client 2 "),
        (
            replace(MEMORY, memory_bytes_K=np.array([1e9, 2e9, 2.5e9])),
            r"client 2 has 2.5e\+09 bytes, cut 3 with rank 1 needs 3e\+09",
        ),
        (
            replace(MEMORY, memory_bytes_K=np.array([1e9, 1.5e9, 2.5e9])),
            r"client 1 has 1.5e\+09 bytes \(and 1 more clients\), cut 2 with rank 4 needs 2e\+09",
        ),
    ],
)
def test_where_clients_differ_the_limit_is_that_of_the_client_named(problem, named):
    assert re.search(named, why_infeasible(problem, CUTS, RANKS))


def test_no_limit_is_named_where_clients_that_send_nothing_are_deaf():
    assert why_infeasible(with_gain(SOME_SEND, [[0.0] * 4, [1e-9] * 4, [1e-9] * 4]), CUTS, RANKS) == ""
