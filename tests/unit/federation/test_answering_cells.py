"""Cells whose plans answer each other: a fixed point, or a word that there is none."""

from dataclasses import replace

import numpy as np
import pytest

from helpers.round_planner import METHOD, SCENARIO, planner
from wavetune.allocation.plan import Plan
from wavetune.federation import answering_cells
from wavetune.federation.answering_cells import Heard, settle, with_heard
from wavetune.federation.planning import Optimal
from wavetune.wireless.channel import draw_devices
from wavetune.wireless.interference import gains_between_cells, seed_of_cell
from wavetune.wireless.neighbours import Neighbours

NEIGHBOURS = Neighbours(cells=2, distance_m=500.0, schedule="plans")
METHOD_1 = replace(METHOD, planner=Optimal())


def cell(neighbours: Neighbours = NEIGHBOURS):
    scenario = replace(SCENARIO, neighbours=neighbours)
    return planner(METHOD_1, scenario, devices=draw_devices(scenario, 0))


def test_planning_again_on_what_was_settled_changes_next_to_nothing():
    one = cell()
    found = one.settled(0)
    assert found.settled
    assert found.cells == 3
    again = one.first_plan()
    assert again.delay_s == pytest.approx(found.delays_s[-1], rel=0.01)
    assert again.delay_s > found.alone_s
    assert f"settled after {len(found.delays_s)} turns" in found.sentence


def test_cells_that_are_far_away_cost_little_and_near_ones_much():
    near, far = (cell(replace(NEIGHBOURS, distance_m=d)).settled(0) for d in (450.0, 4500.0))
    assert near.alone_s == pytest.approx(far.alone_s)
    assert far.delays_s[-1] < near.delays_s[-1]
    assert far.delays_s[-1] == pytest.approx(far.alone_s, rel=0.05)


def test_a_round_is_planned_and_charged_on_what_was_settled():
    one = cell()
    known, heard = one.known(1), one.settled(1)
    alone = replace(one, scenario=replace(one.scenario, neighbours=None)).known(1)
    np.testing.assert_allclose(known.main.interference_w_M, alone.main.interference_w_M + heard.main.at_server_w_M)
    np.testing.assert_array_equal(with_heard(alone, heard).fed.interference_w_M, known.fed.interference_w_M)
    np.testing.assert_array_equal(one.problem(1).main.downlink_interference_w, known.main.downlink_interference_w)
    assert np.any(heard.main.at_server_w_M > 0)
    assert np.any(heard.main.at_devices_w_KM > 0)


def test_what_is_heard_of_one_plan_by_hand():
    one = cell()
    problem = replace(one, scenario=SCENARIO).known(0)
    gain_CCK = np.zeros((2, 2, 3))
    gain_CCK[0, 1], gain_CCK[1, 0] = [1e-12, 2e-12, 3e-12], [4e-12, 5e-12, 6e-12]
    plans: list[Plan] = []

    def first_alone(c, own, last):
        plans.append(METHOD_1.planner.plan(own, 0))
        return plans[c]  # both keep to what they planned alone

    found = settle([problem, problem], gain_CCK, first_alone)
    assert found.settled
    theirs, m = plans[1], 2
    k, round_s = theirs.main.owner_M[m], theirs.phases.round_s
    up_s = 2 * theirs.phases.uplink_s[0, k] if theirs.phases.repeat == 2 else theirs.phases.uplink_s[:, k].sum()
    assert found.main.at_server_w_M[m] == pytest.approx(theirs.main.power_w_M[m] * gain_CCK[1, 0, k] * up_s / round_s)
    down_s = theirs.phases.repeat * theirs.phases.downlink_s[:, k].sum()
    each_w = problem.main.downlink_power_w / problem.main.num_subchannels
    np.testing.assert_allclose(found.main.at_devices_w_KM[:, m], gain_CCK[0, 1] * each_w * down_s / round_s)


def test_plans_that_never_settle_are_said_to(monkeypatch):
    monkeypatch.setattr(answering_cells, "SETTLED", 0.0)
    monkeypatch.setattr(answering_cells, "MOST_TURNS", 2)
    found = cell().settled(0)
    assert not found.settled
    assert "not settled after 2 turns, the last delays lie" in found.sentence
    silent = replace(found, delays_s=(np.inf, np.inf), settled=True)
    assert silent.sentence.endswith("this one has no plan")
    assert isinstance(found.fed, Heard)


def test_gains_between_cells_are_of_the_device_and_the_other_base_station():
    law = replace(SCENARIO, shadowing=False)
    devices_C = [draw_devices(law, seed_of_cell(0, c)) for c in range(3)]
    gain_CCK = gains_between_cells(law, NEIGHBOURS, devices_C, 0)
    assert gain_CCK.shape == (3, 3, 3)
    assert np.all(np.einsum("aak->ak", gain_CCK) == 0)
    far = gains_between_cells(law, replace(NEIGHBOURS, distance_m=2000.0), devices_C, 0)
    off = ~np.eye(3, dtype=bool)
    assert np.all(far[off] < gain_CCK[off])
    assert seed_of_cell(7, 0) == 7
    assert len({seed_of_cell(7, c) for c in range(3)}) == 3
