"""What a device tells after a round, and cannot be right, is not believed and harms nobody."""

import json
import math

import pytest

from helpers.deployment import NUM_DEVICES, deployed, play
from helpers.runs import small, told
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
