"""PWFF's problem, the adapter payload over the fed band alone: against a convex solver and against enumeration."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from helpers.problems import layer_costs
from wavetune.allocation.delay import uplink_rate_bit_per_s_K
from wavetune.allocation.energy_power import economical_plan
from wavetune.allocation.energy_search import plan_with_energy
from wavetune.allocation.energy_terms import EnergyTerms
from wavetune.allocation.participants import problem_of
from wavetune.allocation.plan import make_plan
from wavetune.allocation.planner import plan
from wavetune.allocation.power import allocate_power
from wavetune.allocation.problem import Problem, RadioBand
from wavetune.allocation.selection import lone_round_s, most_within

cp = pytest.importorskip("cvxpy")
SEEDS = st.integers(0, 2**32)


def federated_problem(seed, K, M, min_rate_bit_per_s=0.0):
    """Clients that train the whole model and send adapters over Rayleigh-fading subchannels."""
    g = np.random.default_rng(seed)
    gain_KM = 1e-12 * g.exponential(size=(K, M)) * 10 ** g.uniform(-0.3, 0.3, (K, 1))
    band = RadioBand(gain_KM, 1e6, 1e-18, float(g.uniform(0.5, 1.5) * K))
    return Problem(
        2, 1, {1: 1.0}, (2,), layer_costs(2, flop=1e8, activation_bits=0.0, lora_bits=3e6), 1e12,
        g.uniform(1e9, 2e9, K), np.ones(K), g.uniform(0.5, 2.0, K), np.full(K, np.inf), band, band,
        client_energy_j_per_flop_K=np.full(K, 1e-10), fed_min_rate_bit_per_s=min_rate_bit_per_s,
    )  # fmt: skip


def convex_radio_j(problem, owner_M, upload_s):
    """Least energy of the uploads, each within a time and at no less than the least rate, solved by Clarabel."""
    band, bits, limits, joules = problem.fed, 6e6, [], []
    longest_s = min(upload_s, bits / problem.fed_min_rate_bit_per_s if problem.fed_min_rate_bit_per_s else np.inf)
    for k in range(problem.num_clients):
        own = np.flatnonzero(owner_M == k)
        snr, sending_s = band.snr_per_w_KM[k, own], cp.Variable(nonneg=True)
        nats, grown = cp.Variable(len(own), nonneg=True), cp.Variable(len(own))
        limits += [cp.constraints.ExpCone(nats, cp.hstack([sending_s] * len(own)), grown), sending_s <= longest_s]
        limits.append(cp.sum(nats) >= bits * np.log(2) / band.subchannel_hz)
        joules.append(cp.sum(cp.multiply(1 / snr, grown - sending_s)))
    solved = cp.Problem(cp.Minimize(sum(joules)), limits)
    solved.solve(solver=cp.CLARABEL)
    return solved.value if solved.status == cp.OPTIMAL else None


@settings(max_examples=20)
@given(SEEDS, st.floats(1.05, 3.0), st.booleans())
def test_least_energy_within_a_deadline_is_that_of_a_convex_solver(seed, slack, with_least_rate):
    g = np.random.default_rng(seed)
    K = int(g.integers(1, 4))
    M = int(g.integers(K, 7))
    problem = federated_problem(seed, K, M)
    owner_M = np.concatenate([np.arange(K), g.integers(0, K, M - K)])
    main = np.full(M, -1)
    fed, upload_s = allocate_power(problem.fed, owner_M, np.zeros(K), np.full(K, 6e6), problem.tx_power_max_w_K)
    fastest = make_plan(problem, 2, 1, allocate_power(problem.main, main, np.zeros(K), np.zeros(K), np.ones(K))[0], fed)
    if with_least_rate:
        problem = replace(problem, fed_min_rate_bit_per_s=float(g.uniform(0.4, 0.95)) * 6e6 / upload_s)
    deadline_s = fastest.phases.round_s + (slack - 1) * upload_s
    ours = economical_plan(problem, 2, 1, main, owner_M, EnergyTerms(least="energy", deadline_s=deadline_s))
    try:
        expected_j = convex_radio_j(problem, owner_M, slack * upload_s)
    except cp.error.SolverError:
        expected_j = None
    assume(expected_j is not None)
    assert np.sum(ours.energy.client_radio_j_K) == pytest.approx(expected_j, rel=1e-4)
    rate_K = uplink_rate_bit_per_s_K(problem.fed, ours.fed.owner_M, ours.fed.power_w_M)
    assert np.all(rate_K >= problem.fed_min_rate_bit_per_s)
    assert ours.phases.round_s <= deadline_s * (1 + 1e-6)


@settings(max_examples=8)
@given(SEEDS, st.floats(1.05, 3.0))
def test_least_energy_over_all_owners_is_near_that_of_enumeration(seed, slack):
    problem = federated_problem(seed, K=3, M=5)
    terms = EnergyTerms(least="energy", deadline_s=slack * plan(problem).phases.round_s)
    every = (np.array(owner) for owner in itertools.product(range(3), repeat=5))
    plans = (economical_plan(problem, 2, 1, np.full(5, -1), owner_M, terms) for owner_M in every)
    best_j = min(terms.cost(problem, p) for p in plans if p is not None)
    found_j = terms.cost(problem, plan_with_energy(problem, terms))
    assert best_j * (1 - 1e-6) <= found_j <= best_j * 1.02


@pytest.mark.parametrize("seed", range(3))
def test_most_clients_within_a_deadline_and_the_least_energy_for_them(seed):
    problem = federated_problem(seed, K=4, M=5)
    deadline_s = 0.7 * plan(problem).phases.round_s
    terms = EnergyTerms(least="energy", deadline_s=deadline_s)

    def planner(clients):
        return plan_with_energy(problem_of(problem, clients), terms)

    clients, outcome = most_within(planner, deadline_s, lone_round_s(problem, 2, 1), np.ones(4), least=0)
    sets = [s for n in range(1, 5) for s in itertools.combinations(range(4), n)]
    in_time = [s for s in sets if plan(problem_of(problem, s)).phases.round_s <= deadline_s]
    assert len(clients) == max(map(len, in_time))
    assert outcome.phases.round_s <= deadline_s * (1 + 1e-6)
    assert outcome.energy.total_j <= plan(problem_of(problem, clients)).energy.total_j
