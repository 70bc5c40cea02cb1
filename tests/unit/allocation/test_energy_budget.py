"""Budgets of joules for what a round really asks."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.problems import cell_problem
from wavetune.allocation.delay import load_of, round_energy, round_phases
from wavetune.allocation.energy_budget import within_budgets
from wavetune.allocation.energy_terms import EnergyTerms
from wavetune.allocation.plan import speeds_of
from wavetune.allocation.planner import plan

K = 3
PROBLEM = replace(
    cell_problem(K, 9, cuts=(2,), rounds_to_target={4: 10.0}),
    client_energy_j_per_flop_K=np.full(K, 1e-12),
    server_energy_j_per_flop=1e-13,
)


@cache
def planned():
    return plan(PROBLEM)


def heavier(times_K):
    """What the average round asks, with each client's batches so many times as large."""
    load, times_K = load_of(PROBLEM, 2, 4), np.asarray(times_K)
    fields = ("client_forward_flop_IK", "client_backward_flop_IK", "uplink_bits_IK", "downlink_bits_IK")
    return replace(load, **{name: getattr(load, name) * times_K for name in fields})


def charged(outcome, load):
    phases = round_phases(load, speeds_of(PROBLEM, outcome.main, outcome.fed))
    powers = outcome.main.power_w_K(K), outcome.fed.power_w_K(K)
    return round_energy(load, phases, *powers, PROBLEM.client_energy_j_per_flop_K, PROBLEM.server_energy_j_per_flop)


def client_j_K(energy):
    return energy.client_compute_j_K + energy.client_radio_j_K


@settings(max_examples=30)
@given(st.lists(st.floats(0.2, 2.0), min_size=K, max_size=K), st.floats(0.5, 1.5))
def test_every_client_and_all_together_stay_within_their_budgets(times_K, share):
    load, average = heavier(times_K), charged(planned(), heavier(np.ones(K)))
    least_j = float(np.max(charged(planned(), load).client_compute_j_K))
    terms = EnergyTerms(
        budget_j=least_j + share * float(np.max(average.client_radio_j_K)),
        total_budget_j=charged(planned(), load).total_j - 0.2 * float(np.sum(average.client_radio_j_K)),
    )
    slowed = within_budgets(PROBLEM, planned(), load, terms)
    energy = charged(slowed, load)
    assert np.all(client_j_K(energy) <= terms.budget_j * (1 + 1e-9))
    assert energy.total_j <= terms.total_budget_j * (1 + 1e-9)
    np.testing.assert_array_equal(slowed.main.owner_M, planned().main.owner_M)
    assert np.all(slowed.main.power_w_K(K) <= planned().main.power_w_K(K) * (1 + 1e-9))


def test_who_is_within_its_budget_is_left_as_it_is():
    load = heavier([1.0, 1.0, 1.5])
    before = client_j_K(charged(planned(), load))
    terms = EnergyTerms(budget_j=float(before[2]) - 1e-3 * float(before[2]))
    after = client_j_K(charged(within_budgets(PROBLEM, planned(), load, terms), load))
    untouched = before <= terms.budget_j
    np.testing.assert_array_equal(after[untouched], before[untouched])
    assert np.all(after[~untouched] == pytest.approx(terms.budget_j, rel=1e-6))
    assert within_budgets(PROBLEM, planned(), load, EnergyTerms()) is planned()


def test_a_client_whose_computing_alone_breaks_the_budget_keeps_its_rates():
    load = heavier(np.ones(K))
    compute_j_K = charged(planned(), load).client_compute_j_K
    slowed = within_budgets(PROBLEM, planned(), load, EnergyTerms(budget_j=0.5 * float(np.min(compute_j_K))))
    assert slowed is planned()
