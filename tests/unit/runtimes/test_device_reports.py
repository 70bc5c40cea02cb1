"""What a device tells after a round, and cannot be right, is not believed and harms nobody."""

import json
import math

import numpy as np
import pytest

from helpers.deployment import NUM_DEVICES, deployed, play
from helpers.runs import small, told
from wavetune.data_plane.server import DeviceStream
from wavetune.runtimes import device
from wavetune.runtimes.device import Agent

LIAR = 1


def time_is_not_a_number(report):
    report.seconds["client_forward_s"] = math.nan


def loss_is_infinite(report):
    report.own.nll = math.inf


@pytest.mark.parametrize("falsify", [time_is_not_a_number, loss_is_infinite])
def test_numbers_that_no_record_can_hold_are_left_out_and_their_device_is_named(tmp_path, monkeypatch, falsify):
    handle = Agent.handle

    def lies(agent, order):
        report = handle(agent, order)
        if agent.client == LIAR:
            falsify(report)
        return report

    monkeypatch.setattr(Agent, "handle", lies)
    with deployed(small("fedavg_lora", "run.rounds=1"), tmp_path / "certificates") as servers:
        (outcome,) = play(servers, 1)
    json.dumps(told(outcome), allow_nan=False)
    (lost,) = told(outcome)["lost"]
    assert lost["client"] == LIAR
    assert "not finite" in lost["why"]
    forward_s_K = told(outcome)["measured"]["phases"]["client_forward_s"]
    assert [value > 0 for value in forward_s_K] == [k != LIAR for k in range(NUM_DEVICES)]


LABELS_AT_CLIENT = ("method.topology.kind=split", "method.topology.cut=2", "method.topology.labels=client")


@pytest.mark.parametrize("settings", [(), LABELS_AT_CLIENT], ids=["uncut", "labels at the clients"])
def test_a_training_loss_out_of_all_proportion_is_named_and_counts_in_no_mean(tmp_path, monkeypatch, settings):
    class Lying(device.Stream):
        def ask(self, parts=(), layout=None, loss=None, **keywords):
            told = [*filter(None, [loss]), *keywords.get("losses", ())]
            for one in told if self.liar else ():
                one.nll = 9e3 * one.labelled
            return super().ask(parts, layout, loss, **keywords)

        def __init__(self, channel, hello):
            self.liar = hello.client == LIAR
            super().__init__(channel, hello)

    monkeypatch.setattr(device, "Stream", Lying)
    heard = []
    with deployed(small("fedavg_lora", "run.rounds=1", *settings), tmp_path / "certificates") as servers:
        servers.say = heard.append
        (outcome,) = play(servers, 1)
    record = told(outcome)
    assert record["train_loss_K"][LIAR] == pytest.approx(9e3)
    honest = [k for k in range(NUM_DEVICES) if k != LIAR]
    weights = np.array(outcome.placement.weight_K)[honest]
    mean = np.average(np.array(record["train_loss_K"])[honest], weights=weights)
    assert record["train_loss"] == pytest.approx(mean)
    assert [(one["who"], one["why"][:31]) for one in record["refused"]] == [
        ("device-01", "its training loss of 9e+03 nats")
    ]
    assert any(text.startswith("device-01: its training loss of 9e+03") for text in heard)
    assert not record.get("lost")


def test_a_validation_loss_out_of_all_proportion_is_named_and_counts_in_no_mean(tmp_path, monkeypatch):
    handle = Agent.handle

    def lies(agent, order):
        report = handle(agent, order)
        if agent.client == LIAR:
            report.own.nll = 9e3 * report.own.positions
        return report

    monkeypatch.setattr(Agent, "handle", lies)
    personal = ("run.rounds=1", "method.alignment=null")
    with deployed(small("pwff", *personal), tmp_path / "certificates") as servers:
        (outcome,) = play(servers, 1)
    assert outcome.witness is not None
    assert outcome.witness.scores is not None
    assert outcome.witness.scores.keys() == {0, 2}
    assert [one["who"] for one in told(outcome)["refused"]] == ["device-01"]


def test_the_loss_of_a_device_that_is_lost_before_it_tells_one_is_unknown_and_not_zero(tmp_path, monkeypatch):
    """With labels at the clients a step begins with activations, and its loss comes with the gradients."""
    receive = DeviceStream.receive

    def breaks(stream, content):
        if stream.contract.client == LIAR and stream.contract.stages[stream._received] == "gradients_up":
            stream.fail("the stream broke")
        receive(stream, content)

    monkeypatch.setattr(DeviceStream, "receive", breaks)
    with deployed(small("fedavg_lora", "run.rounds=1", *LABELS_AT_CLIENT), tmp_path / "certificates") as servers:
        (outcome,) = play(servers, 1)
    record = told(outcome)
    assert record["train_loss_K"][LIAR] is None
    assert record["train_loss"] > min(loss for loss in record["train_loss_K"] if loss is not None)


def test_servers_that_go_back_behind_all_that_devices_keep_have_them_begin_anew(tmp_path):
    with deployed(small("fedavg_lora", "run.rounds=3"), tmp_path / "certificates") as servers:
        play(servers, 3)  # of which each keeps two states
        (again,) = play(servers, 1)
    assert not told(again).get("lost")
