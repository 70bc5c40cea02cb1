"""The exact powers under a price on energy, budgets and deadlines against a convex solver on small cases."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from helpers.problems import layer_costs
from wavetune.allocation.delay import load_of
from wavetune.allocation.energy_power import economical_plan
from wavetune.allocation.energy_terms import EnergyTerms
from wavetune.allocation.problem import Problem, RadioBand

cp = pytest.importorskip("cvxpy")


def small_problem(g, K, M):
    """Moderate ratios: the solver fails on what the planner is asked to stand."""

    def band():
        gain_KM = 1e-12 * g.exponential(size=(K, M)) * 10 ** g.uniform(-0.3, 0.3, (K, 1))
        return RadioBand(gain_KM, 1e6, 1e-18, float(g.uniform(0.5, 1.5) * K))

    return Problem(
        2, 1, {1: 1.0}, (1,), layer_costs(2, flop=1e8, activation_bits=4e6, lora_bits=2e6), 1e12,
        g.uniform(1e9, 2e9, K), np.ones(K), g.uniform(0.5, 2.0, K), np.full(K, np.inf), band(), band(),
        client_energy_j_per_flop_K=np.full(K, 1e-10),
    )  # fmt: skip


def convex_cost(problem, owner, idle_s, terms, compute_j_K):
    """The problem in rates and times: the energy t (2^(bits / (B t)) - 1) / h is the perspective of an exponential.

    None where the solver has no accurate answer, as where a budget is all but out of reach.
    """
    load, limits, spent_K = load_of(problem, 1, 1), [], list(compute_j_K)
    steps, times = problem.local_steps, {}
    ready_s_K = load.client_forward_flop_IK[0] / problem.client_flop_per_s_K
    for name, band, bits_K, ready, repeat in (
        ("main", problem.main, load.uplink_bits_IK[0], ready_s_K, steps),
        ("fed", problem.fed, load.fed_upload_bits_K, 0 * ready_s_K, 1),
    ):
        times[name] = done = cp.Variable()
        powers = []
        for k in range(problem.num_clients):
            own = np.flatnonzero(owner == k)
            snr = band.snr_per_w_KM[k, own]
            nats, grown, last = cp.Variable(len(own), nonneg=True), cp.Variable(len(own)), done - ready[k]
            limits += [cp.constraints.ExpCone(nats, cp.hstack([last] * len(own)), grown), last >= 1e-3]
            limits.append(cp.sum(nats) >= bits_K[k] * np.log(2) / band.subchannel_hz)
            joules = cp.sum(cp.multiply(1 / snr, grown - last))
            limits.append(joules <= problem.tx_power_max_w_K[k] * last)
            spent_K[k] = spent_K[k] + repeat * joules
            powers.append((joules, last))
        if np.ptp(ready) == 0:  # A cap on the sum of powers is convex in this form where all send equally long.
            limits.append(sum(j for j, _ in powers) <= band.total_power_max_w * powers[0][1])
    delay = steps * times["main"] + times["fed"] + idle_s
    if np.isfinite(terms.budget_j):
        limits += [spent <= terms.budget_j for spent in spent_K]
    if np.isfinite(terms.deadline_s):
        limits.append(delay <= terms.deadline_s)
    energy = sum(spent_K)
    goal = energy if terms.least == "energy" else delay + terms.weight_s_per_j * energy
    solved = cp.Problem(cp.Minimize(goal), limits)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Solution may be inaccurate", UserWarning)  # its status says so too
            solved.solve(solver=cp.CLARABEL)
    except cp.error.SolverError:
        return None
    return solved.value if solved.status == cp.OPTIMAL else None


@example(128, "budget")  # the solver finds no plan, and is not sure of it
@settings(max_examples=20, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(st.integers(0, 2**32), st.sampled_from(["weight", "budget", "deadline"]))
def test_powers_reach_the_cost_of_a_convex_solver(seed, what):
    g = np.random.default_rng(seed)
    K = int(g.integers(1, 4))
    M = int(g.integers(K, 7))
    problem = small_problem(g, K, M)
    problem = replace(problem, main=replace(problem.main, total_power_max_w=1e3))
    owner = np.concatenate([np.arange(K), g.integers(0, K, M - K)])
    fastest = economical_plan(problem, 1, 1, owner, owner, EnergyTerms(budget_j=1e9))
    assert fastest is not None
    spent_j = float(np.max(fastest.energy.client_compute_j_K + fastest.energy.client_radio_j_K))
    terms = {
        "weight": EnergyTerms(weight_s_per_j=float(10 ** g.uniform(-1, 1))),
        "budget": EnergyTerms(budget_j=float(g.uniform(0.85, 0.99)) * spent_j),
        "deadline": EnergyTerms(least="energy", deadline_s=float(g.uniform(1.05, 2)) * fastest.phases.round_s),
    }[what]
    ours = economical_plan(problem, 1, 1, owner, owner, terms)
    phases = fastest.phases
    idle_s = problem.local_steps * float(
        phases.server_forward_s[0] + phases.server_backward_s[0] + np.max(phases.client_backward_s)
    )
    expected = convex_cost(problem, owner, idle_s, terms, fastest.energy.client_compute_j_K)
    assume(expected is not None)
    assert ours is not None
    assert terms.cost(problem, ours) == pytest.approx(expected, rel=1e-4)
