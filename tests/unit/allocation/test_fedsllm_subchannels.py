from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavetune.allocation.delay import uplink_rate_bit_per_s_K
from wavetune.allocation.feasibility import violations
from wavetune.allocation.fedsllm.learning_accuracy import LearningModel
from wavetune.allocation.fedsllm.planner import plan_bandwidth, plan_fedsllm
from wavetune.allocation.fedsllm.subchannels import (
    Schedule,
    best_schedule,
    fedsllm_problem,
    plan_subchannels,
    whole_subchannels,
)
from wavetune.allocation.problem import Problem, RadioBand
from wavetune.costs.layer_costs import LayerCosts
from wavetune.errors import ConfigError

LEARNING = LearningModel()


def problem_of(
    seed: int = 0, num_clients: int = 5, num_subchannels: int = 400, total_power_max_w: float = 8.0
) -> Problem:
    """Flat gains, four equal layers."""
    draw = np.random.default_rng(seed)
    layer = np.ones(4)

    def band() -> RadioBand:
        gain_K1 = 10 ** draw.uniform(-11, -8, (num_clients, 1))
        gain_KM = np.repeat(gain_K1, num_subchannels, axis=1)
        return RadioBand(gain_KM, 10e6 / num_subchannels, 4e-21, total_power_max_w)

    return Problem(
        local_steps=4,
        batch_size=4,
        rounds_to_target={8: 100.0},
        cuts=(2,),
        costs=LayerCosts(
            forward_flop_L=1e9 * layer,
            backward_flop_L=1e9 * layer,
            lora_forward_flop_per_rank_L=1e6 * layer,
            lora_backward_flop_per_rank_L=2e6 * layer,
            activation_bits_L=7e5 * layer,
            lora_bits_per_rank_L=4e4 * layer,
            memory_bytes_L=0 * layer,
            memory_bytes_per_rank_L=0 * layer,
        ),
        server_flop_per_s=1e14,
        client_flop_per_s_K=draw.uniform(1e12, 2e12, num_clients),
        num_samples_K=np.ones(num_clients),
        tx_power_max_w_K=np.full(num_clients, 1.5),
        memory_bytes_K=np.full(num_clients, np.inf),
        main=band(),
        fed=band(),
    )


@pytest.mark.parametrize("seed", range(6))
def test_a_client_sends_as_fast_as_fdma_over_the_width_of_its_block(seed):
    problem = problem_of(seed)
    plan = plan_subchannels(problem, LEARNING)
    assert violations(problem, plan) == []
    for band, allocation, q_K in zip(
        (problem.main, problem.fed),
        (plan.main, plan.fed),
        fedsllm_problem(problem, 2, 8, LEARNING).carrier_to_noise_hz_2K,
        strict=True,
    ):
        width_hz_K = np.bincount(allocation.owner_M) * band.subchannel_hz
        rate_K = uplink_rate_bit_per_s_K(band, allocation.owner_M, allocation.power_w_M)
        np.testing.assert_allclose(rate_K, width_hz_K * np.log2(1 + q_K / width_hz_K), rtol=1e-12)
        assert np.all(np.diff(allocation.owner_M) >= 0)


@pytest.mark.parametrize("seed", range(6))
def test_delay_by_the_formula_is_within_two_percent_of_the_continuous_optimum(seed):
    problem = problem_of(seed)
    phases = plan_subchannels(problem, LEARNING).phases
    own_s_K = phases.client_forward_s[0] + phases.uplink_s[0] + phases.client_backward_s[0]
    server_s = phases.server_forward_s[0] + phases.server_backward_s[0]
    round_s = np.max(problem.local_steps * (own_s_K + server_s) + phases.fed_upload_s)
    best = plan_bandwidth(fedsllm_problem(problem, 2, 8, LEARNING), problem.local_steps)
    assert 1 - 1e-9 <= round_s / (best.delay_s / best.rounds) <= 1.02
    assert phases.round_s >= round_s * (1 - 1e-12)


def test_local_steps_are_the_iterations_of_the_best_accuracy_rounded_up():
    problem = problem_of()
    best = plan_fedsllm(fedsllm_problem(problem, 2, 8, LEARNING))
    schedule = best_schedule(problem, LEARNING)
    assert schedule.local_steps == np.ceil(best.local_iterations)
    assert schedule.accuracy == pytest.approx(LEARNING.accuracy(schedule.local_steps))
    assert schedule.accuracy <= best.accuracy
    assert schedule.rounds == pytest.approx(LEARNING.rounds(schedule.local_steps))
    assert f"{schedule.local_steps} local steps" in schedule.sentence
    assert Schedule.of(schedule.local_steps, LEARNING) == schedule


def test_power_is_full_and_lowered_alike_where_the_total_would_be_exceeded():
    free, tight = problem_of(), problem_of(total_power_max_w=1.0)
    np.testing.assert_allclose(plan_subchannels(free, LEARNING).main.power_w_K(5), 1.5)
    np.testing.assert_allclose(plan_subchannels(tight, LEARNING).main.power_w_K(5), 0.2)


def test_best_of_several_cuts_is_taken():
    several = replace(problem_of(), cuts=(1, 2, 3))
    delays_s = {cut: plan_subchannels(several.restrict([cut]), LEARNING).delay_s for cut in several.cuts}
    plan = plan_subchannels(several, LEARNING)
    assert plan.delay_s == min(delays_s.values())
    assert delays_s[int(plan.cut_K[0])] == plan.delay_s


def test_more_clients_than_subchannels_are_infeasible_and_still_get_a_schedule():
    crowded = problem_of(num_clients=5, num_subchannels=4)
    assert plan_subchannels(crowded, LEARNING).status == "infeasible"
    assert "4 subchannels for 5 clients" in plan_subchannels(crowded, LEARNING).reason
    assert best_schedule(crowded, LEARNING).local_steps == 1


def test_clients_without_adapters_to_send_are_refused_in_words_of_the_recipe():
    problem = problem_of()
    silent = replace(problem, costs=replace(problem.costs, lora_bits_per_rank_L=np.array([0.0, 0.0, 4e4, 4e4])))
    with pytest.raises(ConfigError, match="with cut 2 and rank 8 they send no adapters"):
        plan_subchannels(silent, LEARNING)


@given(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=20), st.integers(20, 500))
def test_whole_subchannels_use_the_band_up_and_give_everyone_one(shares, num_subchannels):
    share_K = np.array(shares)
    count_K = whole_subchannels(share_K, num_subchannels)
    assert count_K.sum() == num_subchannels
    assert count_K.min() >= 1
    np.testing.assert_array_equal(whole_subchannels(4 * share_K, num_subchannels), count_K)  # 3 would round ties
