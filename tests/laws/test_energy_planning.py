"""Energy in the plan: budgets and deadlines are kept, a joule without a price changes nothing, the curve falls."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from helpers.command_line import assert_refused, wavetune
from helpers.problems import cell_problem, wild_problem
from wavetune.allocation.energy_bound import least_energy_j
from wavetune.allocation.energy_power import economical_plan
from wavetune.allocation.energy_search import plan_with_energy
from wavetune.allocation.energy_terms import EnergyTerms
from wavetune.allocation.feasibility import violations
from wavetune.allocation.planner import plan
from wavetune.allocation.trade_off import trade_off

SEEDS = st.integers(0, 2**32)


def with_energy(problem, seed=0):
    """The problem with energy coefficients that make computing and sending cost about the same."""
    g, K = np.random.default_rng(seed), problem.num_clients
    return replace(
        problem,
        client_energy_j_per_flop_K=10 ** g.uniform(-13, -11.5, K),
        server_energy_j_per_flop=float(10 ** g.uniform(-13, -12)),
    )


def client_j_K(outcome):
    return outcome.energy.client_compute_j_K + outcome.energy.client_radio_j_K


def test_without_a_price_on_energy_the_plan_is_the_fastest():
    problem = with_energy(cell_problem(5, 12, cuts=(1, 2, 3)))
    free, fastest = plan_with_energy(problem, EnergyTerms()), plan(problem)
    assert (free.delay_s, free.lower_bound_s) == (fastest.delay_s, fastest.lower_bound_s)
    np.testing.assert_array_equal(free.main.power_w_M, fastest.main.power_w_M)


@settings(max_examples=25)
@given(SEEDS, st.floats(0.3, 1.1), st.floats(0.3, 1.1))
def test_budgets_are_always_kept(seed, own_share, total_share):
    problem = with_energy(wild_problem(seed, most_clients=4, most_subchannels=8), seed)
    fastest = plan(problem)
    if fastest.status != "ok":
        return
    terms = EnergyTerms(
        budget_j=own_share * float(np.max(client_j_K(fastest))), total_budget_j=total_share * fastest.energy.total_j
    )
    outcome = plan_with_energy(problem, terms)
    if outcome.status == "ok":
        assert violations(problem, outcome) == []
        assert np.all(client_j_K(outcome) <= terms.budget_j * (1 + 1e-9))
        assert outcome.energy.total_j <= terms.total_budget_j * (1 + 1e-9)
        assert fastest.lower_bound_s <= outcome.delay_s
        assert outcome.lower_bound_s <= outcome.delay_s
    else:
        assert outcome.reason
        assert np.max(client_j_K(fastest)) > terms.budget_j or fastest.energy.total_j > terms.total_budget_j


@settings(max_examples=25)
@given(SEEDS, st.floats(1.0, 3.0))
@example(104, 1.0)
def test_least_energy_meets_the_deadline_and_costs_no_more_than_the_fastest_plan(seed, slack):
    problem = with_energy(wild_problem(seed, most_clients=4, most_subchannels=8), seed)
    fastest = plan(problem)
    if fastest.status != "ok" or fastest.delay_s == 0:
        return
    terms = EnergyTerms(least="energy", deadline_s=slack * fastest.phases.round_s)
    outcome = plan_with_energy(problem, terms)
    assert violations(problem, outcome) == []
    assert outcome.phases.round_s <= terms.deadline_s * (1 + 1e-6)
    assert terms.cost(problem, outcome) <= terms.cost(problem, fastest) * (1 + 1e-6)


@settings(max_examples=15)
@given(SEEDS, st.floats(-4, 1))
def test_a_price_on_energy_saves_energy_and_never_costs_more_than_the_fastest_plan(seed, log_weight):
    problem = with_energy(wild_problem(seed, most_clients=4, most_subchannels=8), seed)
    fastest, terms = plan(problem), EnergyTerms(weight_s_per_j=10**log_weight)
    if fastest.status == "ok":
        outcome = plan_with_energy(problem, terms)
        assert violations(problem, outcome) == []
        assert terms.cost(problem, outcome) <= terms.cost(problem, fastest) * (1 + 1e-9)


@pytest.mark.parametrize("shared", [False, True])
def test_powers_for_given_owners_beat_any_other_split_of_the_time(shared):
    """The exact step against a grid over both times, each evaluated through the one objective."""
    problem = replace(with_energy(cell_problem(3, 9, seed=2)), share_server=shared)
    fastest = plan(problem)
    terms = EnergyTerms(weight_s_per_j=0.3)
    best = economical_plan(problem, fastest.cut_K, fastest.rank_K, fastest.main.owner_M, fastest.fed.owner_M, terms,
                           fastest.server_share_K)  # fmt: skip
    assert best is not None
    for slower in np.linspace(1.0, 2.0, 9):
        deadline_s = slower * fastest.phases.round_s
        other = economical_plan(
            problem, fastest.cut_K, fastest.rank_K, fastest.main.owner_M, fastest.fed.owner_M,
            EnergyTerms(least="energy", deadline_s=deadline_s * (1 + 1e-9)), fastest.server_share_K,
        )  # fmt: skip
        assert other is not None
        assert terms.cost(problem, best) <= terms.cost(problem, other) * (1 + 1e-8)


@settings(max_examples=6)
@given(SEEDS, st.floats(1.0, 3.0))
def test_least_energy_is_near_that_of_enumeration_and_its_bound_below(seed, slack):
    problem = with_energy(wild_problem(seed, most_clients=3, most_subchannels=3), seed)
    problem = replace(problem, cuts=problem.cuts[-1:], rounds_to_target={1: 10.0})
    fastest = plan(problem)
    if fastest.status != "ok" or fastest.delay_s == 0:
        return
    terms = EnergyTerms(least="energy", target_delay_s=slack * fastest.delay_s)
    K, best_j = problem.num_clients, np.inf
    for main in itertools.product(range(K), repeat=problem.main.num_subchannels):
        for fed in itertools.product(range(K), repeat=problem.fed.num_subchannels):
            other = economical_plan(problem, problem.cuts[0], 1, np.array(main), np.array(fed), terms)
            best_j = min(best_j, np.inf if other is None else terms.cost(problem, other))
    found_j = terms.cost(problem, plan_with_energy(problem, terms))
    assert least_energy_j(problem, fastest, terms.target_delay_s) <= best_j * (1 + 1e-9)
    assert best_j * (1 - 1e-6) <= found_j <= best_j * 1.05


def test_prices_of_subchannels_prove_nearly_all_of_the_energy_necessary():
    """Whole subchannels counted, each client with its own strongest, left 22 % open at the fast end."""
    curve = trade_off(with_energy(cell_problem(5, 20)), 3)
    assert len(curve.points) == 3
    assert all(point.energy_bound_j > 0.99 * point.energy_j for point in curve.points)


def test_the_way_back_costs_what_each_client_s_best_subchannel_takes_at_least():
    problem = with_energy(cell_problem(4, 12, cuts=(2,)))
    bands = {
        name: replace(vars(problem)[name], downlink_gain_KM=vars(problem)[name].gain_KM[:, ::-1], downlink_power_w=2.0)
        for name in ("main", "fed")
    }
    problem = replace(problem, **bands, rounds_to_target={4: 50.0})
    fastest = plan(problem)
    back_j = 0.0
    for band, bits in (
        (problem.main, problem.local_steps * problem.batch_size * problem.costs.activation_bits_L[1]),
        (problem.fed, 4 * np.sum(problem.costs.lora_bits_per_rank_L[:2]) * problem.costs.download_share),
    ):
        power_w = 2.0 / band.num_subchannels
        for gain_M in band.downlink_gain_KM:
            best = max(band.subchannel_hz * np.log2(1 + power_w * gain / band.downlink_noise_w) for gain in gain_M)
            back_j += 50.0 * power_w * bits / best
    long_s = 30 * fastest.delay_s
    more_j = least_energy_j(replace(problem, price_downlink=True), fastest, long_s) - least_energy_j(
        problem, fastest, long_s
    )
    assert more_j == pytest.approx(back_j, rel=1e-6)


@settings(max_examples=8)
@given(SEEDS)
def test_curve_falls_and_stays_above_its_bounds(seed):
    problem = with_energy(wild_problem(seed, most_clients=3, most_subchannels=6), seed)
    curve = trade_off(problem, 5)
    if not curve.points:
        assert curve.reason
        return
    delays = [p.plan.delay_s for p in curve.points]
    energies = [p.energy_j for p in curve.points]
    assert delays == sorted(delays)
    assert energies == sorted(energies, reverse=True)
    for point in curve.points:
        assert violations(problem, point.plan) == []
        assert point.energy_bound_j <= point.energy_j
        assert point.plan.lower_bound_s <= point.plan.delay_s
    fastest = plan(problem)
    assert delays[0] <= fastest.delay_s * (1 + 1e-6)
    assert curve.points[0].plan.lower_bound_s >= fastest.lower_bound_s * (1 - 1e-6)


def test_warm_start_keeps_the_terms_and_is_no_worse_than_its_owners():
    problem = with_energy(cell_problem(5, 12, cuts=(2,)))
    terms = EnergyTerms(weight_s_per_j=0.05, budget_j=60.0)
    first = plan_with_energy(problem, terms)
    again = plan_with_energy(problem, terms, warm_start=first)
    assert terms.kept(again)
    assert terms.cost(problem, again) <= terms.cost(problem, first) * (1 + 1e-6)


def test_limits_that_computing_alone_breaks_are_named():
    problem = with_energy(cell_problem(3, 6))
    tight = plan_with_energy(problem, EnergyTerms(budget_j=1e-6))
    assert tight.status == "infeasible"
    assert "energy budget of a client is 1e-06 J" in tight.reason
    assert "deadline is 0.001 s" in plan_with_energy(problem, EnergyTerms(deadline_s=1e-3)).reason


PLAN = ("--set", "world.model=gpt2", "--set", "world.data.train_samples=200", "--set", "method.topology.cuts=[1,2,3]")


def test_command_plans_within_a_budget_and_refuses_energy_without_a_deadline(tmp_path):
    def most_j(*more):
        """The largest entry of the table's last column: joules of a client in a round."""
        answer = wavetune("plan", "sflllm", *PLAN, *more)
        assert answer.code == 0, answer
        rows = [line.split() for line in answer.out.splitlines() if len(line.split()) == 11]
        return max(float(row[-1]) for row in rows if row[0].isdigit())

    plain_j = most_j()
    assert most_j("--set", f"method.planner.energy_budget_j={0.9 * plain_j}") <= 0.91 * plain_j
    assert_refused(wavetune("plan", "sflllm", *PLAN, "--set", "method.planner.minimise=energy"), "round_deadline_s")
    tight = wavetune("plan", "sflllm", *PLAN, "--set", "method.planner.energy_budget_j=1e-6")
    assert (tight.code, "energy budget of a client" in tight.err) == (3, True)


def test_command_draws_the_curve(tmp_path):
    answer = wavetune("trade-off", "sflllm", *PLAN, "--points", 4, "--out", tmp_path)
    assert answer.code == 0, answer
    values = json.loads((tmp_path / "trade-off.json").read_text())
    assert len(values["points"]) == 4
    assert values["lower_bound_s"] <= values["points"][0]["delay_s"]
    assert (tmp_path / "figure.svg").stat().st_size > 1000
    assert (tmp_path / "figure.png").stat().st_size > 1000
    per_client = ("--set", "method.topology.cut=[1,2,1,1,1]", "--set", "method.lora.rank=4")
    assert_refused(wavetune("trade-off", "sflllm", *PLAN, *per_client), "one cut and one rank")
    priced = wavetune("plan", "sflllm", *PLAN, "--set", "method.planner.energy_weight_s_per_j=0.1")
    assert "no plan as fast spends less than" in priced.out
    assert "whatever it spends" in priced.out
    assert "the gap is at most" not in priced.out
    assert "with less power than it might use" in priced.out
