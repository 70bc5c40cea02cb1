"""Rounds planned on what is known of a channel and charged by what it is; clients that no link reaches sit out."""

from dataclasses import replace

import numpy as np
import pytest

from helpers.round_planner import METHOD, SCENARIO, planner
from wavetune.federation.links import Outage
from wavetune.federation.selection.fastest import Fastest
from wavetune.wireless.channels.trace import Trace
from wavetune.wireless.knowledge import Knowledge


def known_by(**knowledge):
    return replace(SCENARIO, knowledge=Knowledge(**knowledge))


def equal(one, other):
    return np.array_equal(one.main.gain_KM, other.main.gain_KM) and np.array_equal(one.fed.gain_KM, other.fed.gain_KM)


def test_old_knowledge_is_the_channel_of_some_rounds_ago():
    perfect, old = planner(), planner(scenario=known_by(age_rounds=2))
    assert [equal(old.known(t), perfect.problem(max(0, t - 2))) for t in range(5)] == [True] * 5
    assert [equal(old.problem(t), perfect.problem(t)) for t in range(5)] == [True] * 5


def test_estimates_are_off_by_the_deviation_in_decibels_and_the_channel_itself_is_not():
    wide = replace(
        known_by(error_db=3.0), bands=replace(SCENARIO.bands, main=replace(SCENARIO.bands.main, num_subchannels=4000))
    )
    estimating = planner(scenario=wide)
    off_db = 10 * np.log10(estimating.known(1).main.gain_KM / estimating.problem(1).main.gain_KM)
    assert off_db.mean() == pytest.approx(0.0, abs=0.1)
    assert off_db.std() == pytest.approx(3.0, abs=0.1)
    assert not np.array_equal(estimating.known(1).main.gain_KM, estimating.known(2).main.gain_KM)


def test_a_round_is_planned_on_what_is_known_and_charged_by_what_is():
    old = planner(scenario=known_by(age_rounds=1))
    first = old.first_plan()
    before = planner().plan(2, first)[1]
    problem, plan = old.plan(3, first)
    assert plan.main.owner_M.tolist() == before.main.owner_M.tolist()
    np.testing.assert_array_equal(plan.main.power_w_M, before.main.power_w_M)
    assert equal(problem, planner().problem(3))
    assert plan.delay_s != before.delay_s
    informed = old.informed(3, problem, first, plan)
    assert informed is not None
    assert informed.delay_s == planner().plan(3, first)[1].delay_s


def test_knowing_the_channel_costs_nothing_to_know_better():
    exact = planner()
    problem, plan = exact.plan(1, exact.first_plan())
    assert exact.informed(1, problem, exact.first_plan(), plan) is None


def dead(tmp_path, main=(), fed=()):
    """A planner on a trace of two rounds where some clients have no gain in round 1."""
    bands = SCENARIO.bands
    arrays = {name: np.full((2, 3, getattr(bands, name).num_subchannels), 1e-9) for name in ("main", "fed")}
    arrays["main"][1, list(main)] = 0
    arrays["fed"][1, list(fed)] = 0
    np.savez(tmp_path / "dead.npz", gain_main=arrays["main"], gain_fed=arrays["fed"])
    return replace(SCENARIO, channel=Trace(str(tmp_path / "dead.npz"), after_end="hold"))


@pytest.mark.parametrize("band", ["main", "fed"])
def test_a_client_without_a_link_sits_out_and_the_others_are_planned(band, tmp_path):
    planning = planner(scenario=dead(tmp_path, **{band: [1]}))
    first = planning.first_plan()
    assert first.active_K is None
    _, plan = planning.plan(1, first)
    assert plan.active_K is not None
    assert plan.active_K.tolist() == [True, False, True]
    assert 0 < plan.delay_s < np.inf
    assert set(plan.main.owner_M.tolist()) - {-1} == {0, 2}


def test_a_client_without_a_link_in_the_first_round_keeps_the_cut_and_rank_of_the_others(tmp_path):
    planning = planner(scenario=dead(tmp_path, main=[0]))
    arrays = dict(np.load(tmp_path / "dead.npz"))
    np.savez(tmp_path / "dead.npz", **{name: values[::-1] for name, values in arrays.items()})
    plan = planning.first_plan()
    assert plan.status == "ok"
    assert plan.active_K is not None
    assert plan.active_K.tolist() == [False, True, True]
    assert len({*plan.cut_K.tolist()}) == len({*plan.rank_K.tolist()}) == 1


def test_a_client_whose_link_broke_since_it_was_measured_sits_out(tmp_path):
    scenario = replace(dead(tmp_path, main=[2]), knowledge=Knowledge(age_rounds=1))
    planning = planner(scenario=scenario)
    problem, plan = planning.plan(1, planning.first_plan())
    assert plan.active_K is not None
    assert plan.active_K.tolist() == [True, True, False]
    informed = planning.informed(1, problem, planning.first_plan(), plan)
    assert informed is not None
    assert informed.delay_s <= plan.delay_s


def test_a_lost_upload_is_still_the_links_matter(tmp_path):
    one_way = replace(dead(tmp_path, fed=[2]), price_downlink=False)  # otherwise it does not get the adapters either
    planning = planner(replace(METHOD, link=Outage()), replace(one_way, knowledge=Knowledge(age_rounds=1)))
    assert planning.plan(1, planning.first_plan())[1].active_K is None


def test_selected_clients_are_those_that_a_known_link_reaches(tmp_path):
    planning = planner(replace(METHOD, selection=Fastest(2)), dead(tmp_path, main=[0]))
    _, plan = planning.plan(1, planning.first_plan())
    assert plan.active_K is not None
    assert plan.active_K.tolist() == [False, True, True]
