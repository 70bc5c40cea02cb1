from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from helpers.runs import small
from wavetune.allocation.delay import load_of
from wavetune.costs.table import Workload
from wavetune.federation.account import bits_by_kind, bits_of_clients, central_load
from wavetune.runtimes.session import build

WORK = Workload(np.full((2, 3), 2.0), np.array([[9.0, 5, 7], [4, 6, 8]]), np.full((2, 3), 40.0), np.full((2, 3), 3.0))


@pytest.fixture(scope="module")
def server():
    return build(small("sflllm", "method.topology.cut=[1,2,4]", "method.lora.rank=[1,2,4]")).accountant


@pytest.fixture(scope="module")
def u_shape():
    return build(
        small("sflllm", "method.topology.labels=client", "method.topology.cut=2", "method.lora.rank=2")
    ).accountant


def test_bits_of_a_step_are_each_clients_tokens_both_ways_and_its_labels(server):
    steps, exchange = server.predicted_bits(WORK)
    assert steps[0]["activations_up", 0] == steps[0]["gradients_down", 0] == 16 * 64 * 9
    assert steps[1]["activations_up", 2] == 16 * 64 * 8
    assert steps[1]["labels_up", 1] == 32 * 3
    assert ("activations_down", 0) not in steps[0]
    assert exchange["adapters_up", 2] == exchange["adapters_down", 2] == 32 * 4 * 4 * (64 + 64 + 64 + 32)
    assert exchange["adapters_up", 0] == 32 * 1 * 1 * (64 + 64 + 64 + 32)


def test_adapters_come_back_in_the_plan_as_they_are_charged_whatever_they_are_sent_by():
    codec = 'method.adapter_codec=[{"kind":"top_k","fraction":0.1}]'
    session = build(small("sflllm", codec, "method.price_downlink=true"))
    planned, (up, down) = load_of(session.planner.known(0), 2, 4), session.accountant.adapter_bits(2, 4)
    assert planned.fed_download_bits_K == pytest.approx(np.full(3, down))
    assert planned.fed_upload_bits_K == pytest.approx(np.full(3, up), rel=0.4)  # narrow rows keep one value at least
    assert down > 2 * up


def test_with_labels_at_the_client_activations_and_gradients_go_both_ways_and_labels_nowhere(u_shape):
    steps, _ = u_shape.predicted_bits(WORK)
    kinds = ("activations_up", "activations_down", "gradients_up", "gradients_down")
    assert {steps[0][kind, 1] for kind in kinds} == {16 * 64 * 5}
    assert not any(kind == "labels_up" for kind, _ in steps[0])


def test_load_puts_every_bit_on_its_way(server, u_shape):
    for accountant in (server, u_shape):
        steps, exchange = accountant.predicted_bits(WORK)
        load = accountant.load(WORK, steps, exchange)
        up = sum(n for step in steps for (kind, _), n in step.items() if kind.endswith("_up"))
        down = sum(n for step in steps for (kind, _), n in step.items() if kind.endswith("_down"))
        assert load.uplink_bits_IK.sum() == up
        assert load.downlink_bits_IK.sum() == down
        assert load.fed_upload_bits_K.tolist() == [exchange["adapters_up", k] for k in range(3)]
        assert load.repeat == 1


def test_work_is_split_at_each_clients_own_cut(server):
    load = server.load(WORK, *server.predicted_bits(WORK))
    per_token = load.client_forward_flop_IK[0] / np.array([9, 5, 7])
    assert per_token[0] < per_token[1] < per_token[2]
    assert load.server_forward_flop_I.shape == (2,)


def test_central_trainer_computes_everything_and_sends_nothing(server):
    load = server.load(WORK, *server.predicted_bits(WORK))
    central = central_load(load, 3)
    np.testing.assert_allclose(
        central.server_forward_flop_I, load.server_forward_flop_I + load.client_forward_flop_IK.sum(1)
    )
    np.testing.assert_allclose(
        central.server_backward_flop_I, load.server_backward_flop_I + load.client_backward_flop_IK.sum(1)
    )
    for name in ("uplink_bits_IK", "downlink_bits_IK", "client_forward_flop_IK", "fed_upload_bits_K"):
        assert not getattr(central, name).any()


def test_bits_are_added_up_by_kind_and_absent_kinds_left_out():
    steps = [Counter({("activations_up", 0): 3.0, ("activations_up", 1): 4.0}), Counter({("labels_up", 0): 32})]
    assert bits_by_kind(steps) == {"activations_up": 7, "labels_up": 32}
    assert bits_by_kind([]) == {}


def test_bits_of_clients_are_those_that_they_send_and_are_sent(server):
    steps, exchange = server.predicted_bits(WORK)
    load, counts = server.load(WORK, steps, exchange), [*steps, exchange]
    up_K, down_K = load.uplink_bits_IK.sum(0), load.downlink_bits_IK.sum(0)
    assert bits_of_clients(counts, "up", 3) == tuple(up_K + load.fed_upload_bits_K)
    assert bits_of_clients(counts, "down", 3) == tuple(down_K + load.fed_download_bits_K)
    assert bits_of_clients([{("labels_up", 0): 32.0}], "up", 2) == (32, 0)


def test_sequential_server_is_charged_as_the_parallel_one(server):
    """Its clients still send at the same time; what differs is how often the server's optimiser steps."""
    sequential = build(
        small("split_lora_sequential", "method.topology.cut=[1,2,4]", "method.lora.rank=[1,2,4]")
    ).accountant
    one, other = (SimpleNamespace(**vars(a.load(WORK, *a.predicted_bits(WORK)))) for a in (server, sequential))
    for name in vars(one):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
