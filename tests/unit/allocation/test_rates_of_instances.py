"""Instances and worlds whose subchannels carry another rate than Shannon's."""

import json
from dataclasses import replace

import numpy as np
import pytest

from helpers.problems import cell_problem
from wavetune.allocation.energy_search import plan_with_energy
from wavetune.allocation.energy_terms import EnergyTerms
from wavetune.allocation.feasibility import violations
from wavetune.allocation.instance import problem_from_json, problem_to_json
from wavetune.allocation.planner import plan
from wavetune.allocation.problem import Draw
from wavetune.errors import ConfigError, InstanceError
from wavetune.wireless.rate_models import AttenuatedShannon, NrMcs, RateStep, Shannon, Table

RATES = [
    Shannon(2.0, 7.4, uplink_overhead=0.08),
    AttenuatedShannon(),
    NrMcs(numerology=1),
    Table((RateStep(0.0, 0.5), RateStep(12.0, 3.0))),
]


def with_rate(rate, **changes):
    problem = cell_problem(4, 10, **changes)
    return replace(problem, main=replace(problem.main, rate=rate), fed=replace(problem.fed, rate=rate))


@pytest.mark.parametrize("rate", RATES, ids=lambda r: r.kind)
def test_an_instance_carries_its_rate_and_is_read_as_it_was_written(rate):
    written = json.loads(json.dumps(problem_to_json(with_rate(rate))))
    assert written["bands"]["main"]["wavetune:rate"]["kind"] == rate.kind
    assert problem_from_json(written).main.rate == rate
    assert "wavetune:rate" not in problem_to_json(cell_problem(4, 10))["bands"]["main"]


@pytest.mark.parametrize("rate", RATES, ids=lambda r: r.kind)
def test_a_plan_keeps_all_limits_and_its_bound_whatever_the_rate(rate):
    problem = with_rate(rate)
    found = plan(problem)
    assert violations(problem, found) == []
    assert found.lower_bound_s <= found.delay_s
    assert found.gap < 0.05


@pytest.mark.parametrize(
    ("rate", "words"),
    [
        ({"kind": "table", "steps": [{"snr": 1}]}, "Table.steps holds what has other fields"),
        ({"kind": "table", "rows": []}, "has a field that table has not; it has steps"),
        ({"kind": "table"}, "Table.steps is empty"),
        ({"kind": "table", "steps": 5}, "Table.steps holds what"),
        ({"kind": "table", "steps": [5]}, "steps"),
        ({"kind": "nr_mcs", "numerology": 9}, r"\$.bands.main.wavetune:rate: NrMcs.numerology is 9"),
        ({"kind": "shanon"}, "did you mean 'shannon'"),
        ({"kind": "shannon", "gap": 3}, "a field that shannon has not; it has snr_gap_db"),
        ({"kind": "nr_mcs", "numerology": 4}, "resource block of 2.88e.06 Hz"),
        (3, "must be an object"),
    ],
)
def test_a_rate_that_cannot_be_is_refused_by_its_path(rate, words):
    data = problem_to_json(cell_problem(4, 10))
    data["bands"]["main"]["wavetune:rate"] = rate
    with pytest.raises(InstanceError, match=words):
        problem_from_json(data)


def test_where_power_reaches_no_rung_there_is_no_plan_and_it_says_so():
    problem = with_rate(NrMcs())
    weak = replace(problem, tx_power_max_w_K=np.full(4, 1e-16))
    assert "reaches the least signal-to-noise ratio of its rate on no subchannel" in plan(weak).reason
    scarce = replace(problem, main=replace(problem.main, total_power_max_w=1e-16, gain_KM=problem.main.gain_KM))
    assert plan(scarce).status == "infeasible"


def test_energy_wants_a_rate_without_steps():
    with pytest.raises(ConfigError, match="nr_mcs grows in steps; set world"):
        plan_with_energy(with_rate(NrMcs()), EnergyTerms(weight_s_per_j=1.0))


@pytest.mark.parametrize("own_cuts", [False, True])
def test_shares_of_the_server_under_a_rate_of_steps_are_no_slower_than_serving_together(own_cuts):
    problem = with_rate(NrMcs(), server_flop_per_s=3e12, cut_per_client=own_cuts)
    together, shared = plan(problem), plan(replace(problem, share_server=True))
    assert violations(problem, shared) == []
    assert 0 < shared.lower_bound_s <= shared.delay_s < together.delay_s
    assert shared.gap < 0.2


def test_an_amplifier_draws_more_than_it_radiates_and_the_rest_of_a_device_besides():
    found, problem = plan(cell_problem(4, 10)), cell_problem(4, 10, draw=Draw(0.25, 1.0, 0.1, 0.2, 0.05))
    drawn = plan(problem)
    np.testing.assert_allclose(drawn.energy.client_radio_j_K, 4 * found.energy.client_radio_j_K)
    np.testing.assert_allclose(drawn.energy.client_compute_j_K, found.energy.client_compute_j_K)
    sending_s_K = drawn.phases.uplink_s[0] * problem.local_steps + drawn.phases.fed_upload_s
    expected_j_K = 0.1 * sending_s_K + 0.05 * drawn.phases.round_s
    np.testing.assert_allclose(drawn.energy.client_standby_j_K, expected_j_K)
    assert drawn.energy.total_j == pytest.approx(found.energy.total_j + 3 * found.energy.client_radio_j_K.sum())
    assert np.all(found.energy.client_standby_j_K == 0)


def test_a_budget_counts_what_the_amplifier_draws():
    problem = cell_problem(4, 10, client_energy_j_per_flop_K=np.full(4, 1e-15), draw=Draw(amplifier_efficiency=0.25))
    fastest = plan(problem)
    budget_j = float(0.5 * np.max(fastest.energy.client_compute_j_K + fastest.energy.client_radio_j_K))
    found = plan_with_energy(problem, EnergyTerms(budget_j=budget_j))
    spent_j_K = found.energy.client_compute_j_K + found.energy.client_radio_j_K
    assert found.status == "ok"
    assert np.all(spent_j_K <= budget_j * (1 + 1e-6))
    assert np.max(spent_j_K) > 0.9 * budget_j
