"""FedsLLM's bandwidths against a convex solver, the accuracy against a grid of its solutions."""

import cvxpy as cp
import numpy as np
import pytest

from wavetune.allocation.fedsllm.planner import FedsllmProblem, plan_bandwidth, plan_fedsllm


def problem_of(seed: int, activations: str) -> FedsllmProblem:
    draw = np.random.default_rng(seed)
    K = int(draw.integers(1, 6))
    return FedsllmProblem(
        iteration_s_K=draw.uniform(0.01, 0.2, K),
        bits_2K=draw.uniform(0.1e6, 3e6, (2, K)),
        carrier_to_noise_hz_2K=10 ** draw.uniform(6, 9, (2, K)),
        bandwidth_hz_2=draw.uniform(1e6, 2e7, 2),
        activations=activations,
    )


def convex_delay_s(problem: FedsllmProblem, accuracy: float) -> float:
    """The same problem for a fixed accuracy, in Mbit and MHz, left to Clarabel."""
    learning, K = problem.learning, len(problem.iteration_s_K)
    iterations = learning.iterations(accuracy)
    q_2K, band_2 = problem.carrier_to_noise_hz_2K / 1e6, problem.bandwidth_hz_2 / 1e6
    bits_2K = problem.bits_2K / 1e6 * [[iterations if problem.activations == "every_iteration" else 1.0], [1.0]]
    share_2K, round_s = cp.Variable((2, K), pos=True), cp.Variable()
    rate_2K = -cp.rel_entr(share_2K, share_2K + q_2K) / np.log(2)
    done_s_K = iterations * problem.iteration_s_K + cp.sum(cp.multiply(bits_2K, cp.inv_pos(rate_2K)), axis=0)
    program = cp.Problem(cp.Minimize(round_s), [done_s_K <= round_s, cp.sum(share_2K, axis=1) <= band_2])
    program.solve(solver=cp.CLARABEL)
    assert program.status == cp.OPTIMAL
    return learning.rounds(iterations) * float(round_s.value)


@pytest.mark.parametrize("activations", ["once_a_round", "every_iteration"])
@pytest.mark.parametrize("seed", range(4))
def test_bandwidths_for_a_given_accuracy_equal_those_of_a_convex_solver(seed, activations):
    problem = problem_of(seed, activations)
    for accuracy in (0.2, 0.8):
        delay_s = plan_bandwidth(problem, problem.learning.iterations(accuracy)).delay_s
        assert delay_s == pytest.approx(convex_delay_s(problem, accuracy), rel=1e-6)


@pytest.mark.parametrize("activations", ["once_a_round", "every_iteration"])
def test_accuracy_is_the_best_of_a_grid_of_convex_solutions(activations):
    problem = problem_of(7, activations)
    plan = plan_fedsllm(problem)
    around = np.clip(plan.accuracy + np.array([-0.2, -0.05, -0.01, 0.0, 0.01, 0.05, 0.2]), 0.02, 0.98)
    delays_s = [convex_delay_s(problem, float(accuracy)) for accuracy in around]
    assert min(delays_s) >= plan.delay_s * (1 - 1e-6)
    assert delays_s[3] == pytest.approx(plan.delay_s, rel=1e-6)
