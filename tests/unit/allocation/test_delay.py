from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.problems import cell_problem
from wavetune.allocation.delay import (
    Phases,
    RoundLoad,
    Speeds,
    load_of,
    optimal_shares,
    round_delay,
    round_energy,
    round_phases,
    transfer_s,
)
from wavetune.allocation.instance import read_instance
from wavetune.allocation.plan import Allocation, evaluate


def random_load(generator, steps=3, clients=4, repeat=1):
    def draw(*shape):
        return generator.uniform(1, 2, shape)

    return RoundLoad(
        draw(steps, clients), draw(steps, clients), draw(steps, clients), draw(steps, clients),
        draw(steps, clients), draw(steps, clients), draw(clients), draw(clients), repeat,
    )  # fmt: skip


def random_speeds(generator, clients=4):
    def draw():
        return generator.uniform(1, 2, clients)

    return Speeds(draw(), 1.7, draw(), draw(), draw(), draw())


def test_delay_equals_the_loop_over_steps_and_clients():
    generator = np.random.default_rng(0)
    load, speeds = random_load(generator), random_speeds(generator)
    expected_s = 0.0
    for i in range(3):
        expected_s += max(
            load.client_forward_flop_IK[i, k] / speeds.client_flop_per_s_K[k]
            + load.uplink_bits_IK[i, k] / speeds.uplink_bit_per_s_K[k]
            for k in range(4)
        )
        expected_s += (load.server_forward_flop_I[i] + load.server_backward_flop_I[i]) / speeds.server_flop_per_s
        expected_s += max(
            load.downlink_bits_IK[i, k] / speeds.downlink_bit_per_s_K[k]
            + load.client_backward_flop_IK[i, k] / speeds.client_flop_per_s_K[k]
            for k in range(4)
        )
    expected_s += max(load.fed_upload_bits_K / speeds.fed_up_bit_per_s_K)
    expected_s += max(load.fed_download_bits_K / speeds.fed_down_bit_per_s_K)
    assert round_delay(round_phases(load, speeds), 1) == pytest.approx(expected_s, rel=1e-12)


def test_one_repeated_row_equals_equal_rows():
    generator = np.random.default_rng(1)
    once, speeds = random_load(generator, steps=1, repeat=5), random_speeds(generator)
    rows = {name: np.repeat(value, 5, axis=0) for name, value in vars(once).items() if name.endswith(("_I", "_IK"))}
    unrolled = RoundLoad(**(vars(once) | rows | {"repeat": 1}))
    phases, all_phases = round_phases(once, speeds), round_phases(unrolled, speeds)
    assert phases.round_s == pytest.approx(all_phases.round_s, rel=1e-12)
    energies = [
        round_energy(*pair, np.ones(4), np.ones(4), 2.0, 3.0) for pair in ((once, phases), (unrolled, all_phases))
    ]
    assert energies[0].total_j == pytest.approx(energies[1].total_j, rel=1e-12)
    assert phases.straggler() == all_phases.straggler()


def test_nothing_to_send_takes_no_time_even_without_a_rate():
    assert transfer_s(np.zeros(2), np.array([0.0, 5.0])).tolist() == [0.0, 0.0]


def test_bits_without_a_rate_take_forever_and_an_infinite_rate_is_not_priced():
    assert transfer_s(np.ones(2), np.array([0.0, np.inf])).tolist() == [np.inf, 0.0]


def test_energy_is_power_times_airtime_plus_compute():
    load = RoundLoad(
        np.array([[6.0]]), np.array([[10.0]]), np.array([[8.0]]), np.array([[2.0]]), np.array([[10.0]]),
        np.array([[4.0]]), np.array([3.0]), np.array([3.0]), repeat=2,
    )  # fmt: skip
    phases = round_phases(load, Speeds(np.ones(1), 1.0, np.array([5.0]), np.array([10.0]), np.ones(1), np.full(1, 3.0)))
    energy = round_energy(load, phases, np.array([0.5]), np.array([0.1]), 2.0, 3.0, np.array([20.0]), np.array([10.0]))
    assert energy.client_compute_j_K.tolist() == [2 * (6 + 4) * 2.0]
    assert energy.client_radio_j_K.tolist() == pytest.approx([0.5 * 2 * 2 + 0.1 * 3])
    assert energy.server_compute_j == 2 * (8 + 2) * 3.0
    assert energy.server_radio_j == pytest.approx(20 * 2 * 1.0 + 10 * 1.0)
    assert energy.total_j == pytest.approx(40 + 2.3 + 60 + 50)


def test_straggler_is_who_the_others_wait_for_and_in_what():
    phases = Phases(
        client_forward_s=np.array([[1.0, 2.0]]),
        uplink_s=np.array([[1.0, 9.0]]),
        server_forward_s=np.zeros(1),
        server_backward_s=np.zeros(1),
        downlink_s=np.zeros((1, 2)),
        client_backward_s=np.array([[3.0, 1.0]]),
        fed_upload_s=np.array([1.0, 0.0]),
        fed_download_s=np.zeros(2),
    )
    assert phases.straggler() == (1, "uplink")


def test_cut_moves_work_from_server_to_client_and_keeps_the_sum():
    problem = cell_problem(3, 6)
    loads = [load_of(problem, cut, 4) for cut in (1, 5, 12)]
    totals = [float(load.client_forward_flop_IK.sum() + load.server_forward_flop_I.sum()) for load in loads]
    assert totals == pytest.approx([totals[0]] * 3)
    assert loads[2].server_backward_flop_I.tolist() == [0.0]
    assert loads[1].client_backward_flop_IK[0] == pytest.approx(5 * loads[0].client_backward_flop_IK[0])
    assert loads[1].fed_upload_bits_K == pytest.approx(5 * loads[0].fed_upload_bits_K)


def test_cuts_and_ranks_may_differ_between_clients():
    problem = cell_problem(2, 4)
    mixed = load_of(problem, np.array([2, 7]), np.array([8, 1]))
    alone = [load_of(problem, 2, 8), load_of(problem, 7, 1)]
    for k in range(2):
        assert mixed.client_forward_flop_IK[0, k] == alone[k].client_forward_flop_IK[0, k]
        assert mixed.fed_upload_bits_K[k] == alone[k].fed_upload_bits_K[k]
    assert mixed.server_forward_flop_IK[0, 0] == alone[0].server_forward_flop_IK[0, 0]
    at_the_servers_rank = load_of(problem, 7, 8)
    assert mixed.server_forward_flop_IK[0, 1] == at_the_servers_rank.server_forward_flop_IK[0, 1]


def test_mixed_ranks_take_the_rounds_of_the_slowest_learner():
    problem = cell_problem(2, 4)
    allocation = Allocation(np.array([0, 1, 0, 1]), np.full(4, 0.1))
    phases, delay_s = evaluate(problem, 1, np.array([8, 1]), allocation, allocation)
    assert delay_s == 64.0 * phases.round_s


@pytest.mark.parametrize(("cut", "rank", "delay_s"), [(1, 1, 110), (1, 2, 96), (2, 1, 140), (2, 2, 128)])
def test_worked_example_has_the_delays_computed_by_hand(shared, cut, rank, delay_s):
    problem = read_instance(shared / "formats" / "examples" / "hand.json")
    allocation = Allocation(np.array([0, 1]), np.ones(2))
    assert evaluate(problem, cut, rank, allocation, allocation)[1] == pytest.approx(delay_s, rel=1e-12)


def test_with_shares_of_the_server_a_step_waits_for_the_slowest_pipeline():
    generator = np.random.default_rng(2)
    share_K = np.array([0.1, 0.2, 0.3, 0.4])
    load, speeds = random_load(generator), replace(random_speeds(generator), server_share_K=share_K)
    expected_s = 0.0
    for i in range(3):
        expected_s += max(
            load.client_forward_flop_IK[i, k] / speeds.client_flop_per_s_K[k]
            + load.uplink_bits_IK[i, k] / speeds.uplink_bit_per_s_K[k]
            + (load.server_forward_flop_IK[i, k] + load.server_backward_flop_IK[i, k])
            / (share_K[k] * speeds.server_flop_per_s)
            + load.downlink_bits_IK[i, k] / speeds.downlink_bit_per_s_K[k]
            + load.client_backward_flop_IK[i, k] / speeds.client_flop_per_s_K[k]
            for k in range(4)
        )
    expected_s += max(load.fed_upload_bits_K / speeds.fed_up_bit_per_s_K)
    expected_s += max(load.fed_download_bits_K / speeds.fed_down_bit_per_s_K)
    phases = round_phases(load, speeds)
    assert phases.round_s == pytest.approx(expected_s, rel=1e-12)
    assert phases.round_s > round_phases(load, replace(speeds, server_share_K=None)).server_forward_s.sum()


@given(st.integers(0, 2**32))
def test_the_best_shares_end_all_pipelines_at_once_and_never_later_than_serving_together(seed):
    generator = np.random.default_rng(seed)
    K = int(generator.integers(1, 8))
    work_s_K = 10 ** generator.uniform(-6, 3, K) * (generator.random(K) < 0.9)
    other_s_K = 10 ** generator.uniform(-6, 3, K)
    share_K = optimal_shares(work_s_K, other_s_K)
    assert share_K.sum() == pytest.approx(1.0)
    works = work_s_K > 0
    if np.any(works):
        end_s_K = other_s_K[works] + work_s_K[works] / share_K[works]
        assert end_s_K == pytest.approx([end_s_K.max()] * int(works.sum()))
        assert end_s_K.max() <= (other_s_K.max() + work_s_K.sum()) * (1 + 1e-12)
        for _ in range(5):
            others = generator.dirichlet(np.ones(works.sum()))
            assert np.max(other_s_K[works] + work_s_K[works] / others) >= end_s_K.max() * (1 - 1e-9)


def test_shares_are_shares_where_the_work_is_too_small_to_be_told():
    share_K = optimal_shares(np.array([1e-20, 3e-20, 1e-300]), np.array([5.0, 5.0, 5.0]))
    assert share_K == pytest.approx([0.25, 0.75, 0.0])
    assert np.all(share_K > 0)


def test_bits_that_cross_are_those_of_the_layer_before_the_cut_where_layers_differ():
    crossing_L, adapters_L = np.arange(1.0, 13.0), 100.0 * np.arange(1.0, 13.0) ** 2
    problem = cell_problem(3, 6)
    costs = replace(problem.costs, activation_bits_L=crossing_L, lora_bits_per_rank_L=adapters_L)
    load = load_of(replace(problem, costs=costs, batch_size=16), np.array([1, 5, 12]), np.array([1, 2, 4]))
    for bits_IK in (load.uplink_bits_IK, load.downlink_bits_IK):
        assert bits_IK.tolist() == [[16 * 1.0, 16 * 5.0, 16 * 12.0]]
    wanted = [rank * adapters_L[:cut].sum() for cut, rank in ((1, 1), (5, 2), (12, 4))]
    assert load.fed_upload_bits_K.tolist() == load.fed_download_bits_K.tolist() == wanted
