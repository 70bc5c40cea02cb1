from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.fedsllm_cell import fedsllm_cell
from wavetune.allocation.fedsllm.fdma import least_delay_bandwidths
from wavetune.allocation.fedsllm.learning_accuracy import LearningModel
from wavetune.allocation.fedsllm.planner import (
    FedsllmProblem,
    plan_accuracy,
    plan_bandwidth,
    plan_fedsllm,
    plan_unoptimised,
)
from wavetune.errors import ConfigError

seeds = st.integers(0, 10**6)
modes = st.sampled_from(["once_a_round", "every_iteration"])


def random_problem(seed: int, activations: str = "once_a_round", num_clients: int | None = None) -> FedsllmProblem:
    """Orders of magnitude apart in everything."""
    draw = np.random.default_rng(seed)
    K = num_clients or int(draw.integers(1, 9))
    return FedsllmProblem(
        iteration_s_K=10 ** draw.uniform(-4, 1, K),
        bits_2K=10 ** draw.uniform(3, 8, (2, K)),
        carrier_to_noise_hz_2K=10 ** draw.uniform(4, 12, (2, K)),
        bandwidth_hz_2=10 ** draw.uniform(5, 9, 2),
        activations=activations,
    )


@given(seeds, modes)
@settings(max_examples=8)
def test_plan_is_proved_optimal_for_every_accuracy_and_bandwidth(seed, activations):
    plan = plan_fedsllm(random_problem(seed, activations))
    assert plan.lower_bound_s <= plan.delay_s <= plan.lower_bound_s * (1 + 1e-6)


@given(seeds, modes)
@settings(max_examples=4)
def test_no_accuracy_on_a_grid_is_better_and_the_bound_holds_for_all(seed, activations):
    problem = random_problem(seed, activations)
    plan = plan_fedsllm(problem)
    for accuracy in np.linspace(0.03, 0.97, 11):
        fixed = plan_bandwidth(problem, problem.learning.iterations(float(accuracy)))
        assert fixed.delay_s >= plan.delay_s * (1 - 1e-9)
        assert max(plan.lower_bound_s, fixed.lower_bound_s) <= plan.delay_s * (1 + 1e-12)


@given(seeds, modes)
@settings(max_examples=8)
def test_no_perturbed_bandwidths_are_better(seed, activations):
    problem = random_problem(seed, activations)
    plan = plan_bandwidth(problem, problem.learning.iterations(0.5))
    draw = np.random.default_rng(seed)
    for spread in (0.3, 1e-2, 1e-4):
        other_2K = plan.bandwidth_hz_2K * np.exp(spread * draw.standard_normal(plan.bandwidth_hz_2K.shape))
        other_2K *= (problem.bandwidth_hz_2 / other_2K.sum(axis=1))[:, None]
        snr_2K = problem.carrier_to_noise_hz_2K / other_2K
        bits_2K = problem.bits_2K * [[plan.local_iterations if activations == "every_iteration" else 1.0], [1.0]]
        upload_s_2K = bits_2K / (other_2K * np.log1p(snr_2K) / np.log(2))
        assert plan.rounds * np.max(plan.compute_s_K + upload_s_2K.sum(axis=0)) >= plan.delay_s * (1 - 1e-9)


def test_every_client_that_limits_is_done_at_the_same_time_and_both_bands_are_full():
    problem = fedsllm_cell(seed=3)
    plan = plan_fedsllm(problem)
    done_s_K = plan.compute_s_K + plan.upload_s_2K.sum(axis=0)
    np.testing.assert_allclose(done_s_K, done_s_K.max(), rtol=1e-8)
    np.testing.assert_allclose(plan.bandwidth_hz_2K.sum(axis=1), problem.bandwidth_hz_2, rtol=1e-12)
    assert plan.delay_s == pytest.approx(plan.rounds * done_s_K.max(), rel=1e-12)
    assert plan.local_iterations == pytest.approx(problem.learning.iterations(plan.accuracy))


@given(seeds, modes, st.floats(1.0, 100.0))
@settings(max_examples=4)
def test_more_bandwidth_power_or_compute_never_hurts(seed, activations, factor):
    problem = random_problem(seed, activations)
    delay_s = plan_fedsllm(problem).delay_s * (1 + 1e-8)
    assert plan_fedsllm(replace(problem, bandwidth_hz_2=problem.bandwidth_hz_2 * [factor, 1.0])).delay_s <= delay_s
    stronger = replace(problem, carrier_to_noise_hz_2K=problem.carrier_to_noise_hz_2K * factor)
    assert plan_fedsllm(stronger).delay_s <= delay_s
    assert plan_fedsllm(replace(problem, iteration_s_K=problem.iteration_s_K / factor)).delay_s <= delay_s


@given(seeds, modes, st.floats(1e-3, 1e3))
@settings(max_examples=4)
def test_plans_scale_with_the_units_of_frequency_payload_and_time(seed, activations, factor):
    problem = random_problem(seed, activations)
    plan = plan_fedsllm(problem)
    wider = replace(
        problem,
        bits_2K=problem.bits_2K * factor,
        carrier_to_noise_hz_2K=problem.carrier_to_noise_hz_2K * factor,
        bandwidth_hz_2=problem.bandwidth_hz_2 * factor,
    )
    assert plan_fedsllm(wider).delay_s == pytest.approx(plan.delay_s, rel=1e-7)
    longer = replace(problem, bits_2K=problem.bits_2K * factor, iteration_s_K=problem.iteration_s_K * factor)
    assert plan_fedsllm(longer).delay_s == pytest.approx(factor * plan.delay_s, rel=1e-7)


@given(seeds)
@settings(max_examples=6)
def test_order_of_clients_does_not_matter(seed):
    problem = random_problem(seed)
    K = len(problem.iteration_s_K)
    order = np.random.default_rng(seed).permutation(K)
    shuffled = replace(
        problem,
        iteration_s_K=problem.iteration_s_K[order],
        bits_2K=problem.bits_2K[:, order],
        carrier_to_noise_hz_2K=problem.carrier_to_noise_hz_2K[:, order],
    )
    assert plan_fedsllm(shuffled).delay_s == pytest.approx(plan_fedsllm(problem).delay_s, rel=1e-8)


def test_one_client_gets_both_bands():
    problem = random_problem(5, num_clients=1)
    plan = plan_fedsllm(problem)
    np.testing.assert_allclose(plan.bandwidth_hz_2K[:, 0], problem.bandwidth_hz_2, rtol=1e-12)


def test_a_thousand_clients_are_planned_with_a_certificate():
    problem = fedsllm_cell(seed=1, num_clients=1000)
    plan = plan_fedsllm(problem)
    assert plan.delay_s <= plan.lower_bound_s * (1 + 1e-8)
    assert plan.delay_s < 0.8 * plan_accuracy(problem).delay_s


def test_named_baselines_are_ordered_by_what_they_leave_out():
    problem = fedsllm_cell(seed=0)
    best, bandwidth = plan_fedsllm(problem).delay_s, plan_bandwidth(problem, problem.learning.iterations(0.5)).delay_s
    accuracy, unoptimised = plan_accuracy(problem).delay_s, plan_unoptimised(problem).delay_s
    assert best < bandwidth < unoptimised
    assert best < accuracy < unoptimised


def test_equal_bandwidth_baseline_finds_the_best_accuracy_of_a_grid():
    problem = fedsllm_cell(seed=0)
    grid = [plan_unoptimised(problem, float(eta)).delay_s for eta in np.linspace(0.01, 0.99, 99)]
    assert min(grid) * 0.999 <= plan_accuracy(problem).delay_s <= min(grid)


def test_single_uplink_example_of_the_literature_is_reproduced_in_order_of_magnitude():
    """50 clients, the client's compute alone, one upload: about 20 s at eta 0.7, against 25 s unoptimised."""
    found = []
    for seed in range(7):
        problem = fedsllm_cell(seed, client_share=1.0)
        problem = replace(problem, bits_2K=problem.bits_2K * [[1.0], [1e-12]])
        plan, usual = plan_fedsllm(problem), plan_unoptimised(problem)
        found.append((plan.accuracy, plan.delay_s, 1 - plan.delay_s / usual.delay_s))
    accuracy, delay_s, saved = np.median(found, axis=0)
    assert 0.6 < accuracy < 0.8
    assert 18 < delay_s < 24
    assert 0.12 < saved < 0.3


@pytest.mark.parametrize(
    "plan", [plan_fedsllm, plan_accuracy, plan_unoptimised, lambda p: plan_bandwidth(p, p.learning.iterations(0.5))]
)
def test_a_client_that_cannot_be_heard_makes_the_plan_infeasible(plan):
    problem = random_problem(1, num_clients=3)
    deaf_2K = problem.carrier_to_noise_hz_2K.copy()
    deaf_2K[1, 2] = 0.0
    found = plan(replace(problem, carrier_to_noise_hz_2K=deaf_2K))
    assert found.status == "infeasible"
    assert "fed band: client 2" in found.reason
    assert np.isinf(found.delay_s)
    assert "bandwidth is 0 Hz" in plan(replace(problem, bandwidth_hz_2=np.array([0.0, 1e6]))).reason


def test_a_deadline_below_the_optimum_is_infeasible_and_says_what_is_possible():
    problem = random_problem(2)
    delay_s = plan_fedsllm(problem).delay_s
    assert plan_fedsllm(problem, deadline_s=delay_s * 1.001).status == "ok"
    refused = plan_fedsllm(problem, deadline_s=delay_s * 0.999)
    assert refused.status == "infeasible"
    assert "at least" in refused.reason


def test_malformed_problems_are_refused():
    with pytest.raises(ConfigError, match="shape"):
        FedsllmProblem(np.ones(2), np.ones((2, 3)), np.ones((2, 2)), np.ones(2))
    with pytest.raises(ConfigError, match="positive"):
        FedsllmProblem(np.ones(1), np.zeros((2, 1)), np.ones((2, 1)), np.ones(2))


def test_learning_model_converts_accuracy_and_iterations_and_refuses_divergent_steps():
    learning = LearningModel()
    assert learning.accuracy(learning.iterations(0.37)) == pytest.approx(0.37)
    assert learning.iterations(0.5) == pytest.approx(learning.iterations_scale)
    with pytest.raises(ConfigError, match="step_size"):
        LearningModel(step_size=2.0)


@pytest.mark.parametrize("setting", [{"convexity": 1e-300}, {"relaxation": 1e-300}, {"smoothness": 1e-300}])
def test_learning_model_beyond_all_numbers_is_refused(setting):
    with pytest.raises(ConfigError, match="scale of its"):
        LearningModel(**setting)


def test_rounds_are_told_apart_however_near_the_accuracy_is_to_exact_or_useless():
    learning, hardly_any = LearningModel(), LearningModel(convexity=1e-20)
    assert learning.rounds(1e6) == learning.rounds_scale
    assert hardly_any.rounds(1) == pytest.approx(
        hardly_any.rounds_scale * hardly_any.iterations_scale / np.log(2), rel=1e-9
    )


def test_equal_clients_share_both_bands_equally():
    shares = least_delay_bandwidths(np.zeros(4), np.full((2, 4), 1e5), np.full((2, 4), 1e8), np.array([1e6, 2e6]))
    np.testing.assert_allclose(shares, np.repeat([[2.5e5], [5e5]], 4, axis=1), rtol=1e-9)
