from dataclasses import replace

import numpy as np
import pytest

from helpers.problems import cell_problem
from wavetune.allocation.baselines import unsplit
from wavetune.allocation.decision import Evaluator
from wavetune.allocation.feasibility import violations
from wavetune.allocation.genetic import plan_genetic
from wavetune.allocation.planner import plan
from wavetune.allocation.schedulers import equal_shares, max_gain, plan_by, proportional_fair, round_robin

PROBLEM = cell_problem(5, 20, seed=2)
SCHEDULERS = (equal_shares, round_robin, max_gain, proportional_fair)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_scheduler_keeps_cut_3_and_rank_8_at_full_power_and_is_above_the_bound(scheduler):
    outcome = plan_by(PROBLEM, scheduler)
    assert violations(PROBLEM, outcome) == []
    assert {*outcome.cut_K} == {3}
    assert {*outcome.rank_K} == {8}
    for band, allocation in ((PROBLEM.main, outcome.main), (PROBLEM.fed, outcome.fed)):
        assert allocation.power_w_M.sum() == pytest.approx(min(5 * 1.5, band.total_power_max_w))
    assert outcome.delay_s >= plan(PROBLEM).lower_bound_s


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_nobody_who_sends_is_left_without_a_usable_subchannel(scheduler):
    g = np.random.default_rng(4)
    gain_KM = PROBLEM.main.gain_KM * (g.random((5, 20)) < 0.3) * np.array([1, 1, 1, 1, 1e-6])[:, None]
    problem = replace(PROBLEM, main=replace(PROBLEM.main, gain_KM=gain_KM))
    assert violations(problem, plan_by(problem, scheduler)) == []


def test_a_pair_near_cut_3_and_rank_8_stands_in_where_these_are_not_allowed():
    outcome = plan_by(PROBLEM.restrict(cuts=[1, 5, 9], ranks=[1, 6]), round_robin)
    assert ({*outcome.cut_K}, {*outcome.rank_K}) == ({1}, {6})


def test_proportional_fairness_serves_all_where_the_strongest_takes_all_of_max_gain():
    rate_SM = np.array([[9.0] * 6, [1.0] * 6, [0.5] * 6])
    assert max_gain(rate_SM).tolist() == [0] * 6
    assert np.bincount(proportional_fair(rate_SM)).tolist() == [2, 2, 2]


def test_unsplit_training_sends_adapters_of_the_whole_model_alone():
    problem = unsplit(PROBLEM)
    outcome = plan(problem)
    assert ({*outcome.cut_K}, {*outcome.rank_K}) == ({12}, {8})
    phases = outcome.phases
    assert np.all(phases.uplink_s == 0)
    assert phases.server_forward_s[0] == phases.server_backward_s[0] == 0
    compute_s = (phases.client_forward_s[0] + phases.client_backward_s[0]).max()
    assert outcome.delay_s == pytest.approx(43.0 * (12 * compute_s + phases.fed_upload_s.max()))


@pytest.mark.parametrize("price_downlink", [False, True])
def test_genetic_search_costs_its_individuals_what_their_plans_take(price_downlink, monkeypatch):
    bands = {
        n: replace(b, downlink_gain_KM=b.gain_KM, downlink_power_w=1.0)
        for n, b in (("main", PROBLEM.main), ("fed", PROBLEM.fed))
    }
    problem = replace(PROBLEM, price_downlink=price_downlink, **bands)
    seen, decide = [], Evaluator.decide

    def watched(self, *choice):
        decision = decide(self, *choice)
        seen.append(decision.delay_s)
        return decision

    monkeypatch.setattr(Evaluator, "decide", watched)
    outcome = plan_genetic(problem, 0)
    assert violations(problem, outcome) == []
    assert outcome.delay_s == pytest.approx(min(seen))
    assert min(seen) < 0.9 * min(seen[:30])
