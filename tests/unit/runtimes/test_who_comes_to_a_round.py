"""No device that fails, stays away or says nothing ends a run, or holds it up for longer than once."""

import numpy as np
import pytest

from helpers.deployment import NUM_DEVICES, deployed, play
from helpers.runs import small, told
from wavetune.data_plane.messages_pb2 import RoundReport
from wavetune.data_plane.refusal import Reason
from wavetune.errors import DeploymentError
from wavetune.runtimes import deployed as servers_of
from wavetune.runtimes.device import Agent

ONE = 1
BOTH = pytest.mark.parametrize("name", ["fedavg_lora", "sflllm"])


def failing(monkeypatch, fails):
    """Devices that report a failure in the place of a round, where `fails(client, orders so far)` says so."""
    handle, orders = Agent.handle, dict.fromkeys(range(NUM_DEVICES), 0)

    def or_fail(agent, order):
        orders[agent.client] += 1
        if fails(agent.client, orders[agent.client]):
            return RoundReport(round=order.round, failure=f"no \x1b[31mluck for {agent.client}")
        return handle(agent, order)

    monkeypatch.setattr(Agent, "handle", or_fail)


def choosing(monkeypatch, clients_of):
    """Rounds that are for some clients alone."""
    prepare = servers_of.prepare

    def prepared(session, index):
        return prepare(session, index).among([k in clients_of(index) for k in range(NUM_DEVICES)])

    monkeypatch.setattr(servers_of, "prepare", prepared)


@BOTH
def test_a_round_for_one_device_that_cannot_take_part_goes_by_without_it(tmp_path, monkeypatch, name):
    failing(monkeypatch, lambda client, _orders: client == ONE)
    choosing(monkeypatch, lambda index: {ONE} if index == 0 else {0, 1, 2})
    with deployed(small(name, "run.rounds=2"), tmp_path / "certificates") as servers:
        without, after = map(told, play(servers, 2))
    assert without["active_K"] == [False] * NUM_DEVICES
    assert without["lost"] == [{"client": ONE, "why": "client 1 reports: no \\x1b[31mluck for 1"}]
    assert after["active_K"] == [True, False, True]


def test_a_round_for_one_device_that_is_away_goes_by_without_it(tmp_path, monkeypatch):
    choosing(monkeypatch, lambda _index: {ONE})
    with deployed(small("fedavg_lora", "run.rounds=1"), tmp_path / "certificates", deadline_s=0.1) as servers:
        servers.coordinator.wait_for(range(NUM_DEVICES), 60.0)
        servers.coordinator.present, servers.known = lambda: {0, 2}, {0, 1, 2}
        (without,) = map(told, play(servers, 1))
        del servers.coordinator.present
    assert without["lost"] == [{"client": ONE, "why": "client 1 is away"}]
    assert np.isnan(without["train_loss"] or np.nan)


def test_a_device_that_is_away_when_its_round_begins_is_named(tmp_path):
    with deployed(small("fedavg_lora", "run.rounds=1"), tmp_path / "certificates") as servers:
        servers.coordinator.wait_for(range(NUM_DEVICES), 60.0)
        servers.coordinator.present, servers.known = lambda: {0, 2}, {0, 1, 2}
        (without,) = map(told, play(servers, 1))
        del servers.coordinator.present
    assert without["active_K"] == [True, False, True]
    assert without["lost"] == [{"client": ONE, "why": "client 1 is away"}]


def test_a_round_that_fails_everywhere_for_a_moment_is_tried_again(tmp_path, monkeypatch):
    failing(monkeypatch, lambda _client, orders: orders == 1)
    with deployed(small("fedavg_lora", "run.rounds=1"), tmp_path / "certificates") as servers:
        (once_more,) = map(told, play(servers, 1))
    assert (once_more["active_K"], once_more["lost"]) == ([True] * NUM_DEVICES, [])


def test_a_run_of_which_all_devices_say_again_that_they_cannot_take_part_ends_in_what_they_say(tmp_path, monkeypatch):
    failing(monkeypatch, lambda _client, _orders: True)
    said = "; ".join(rf"device {k}: no \\x1b\[31mluck for {k}" for k in range(NUM_DEVICES))
    with (
        deployed(small("fedavg_lora", "run.rounds=1"), tmp_path / "certificates") as servers,
        pytest.raises(DeploymentError, match=f"no device can take part; {said}$"),
    ):
        play(servers, 1)


def test_a_device_that_never_opens_its_stream_is_waited_for_long_in_its_first_round_alone(tmp_path, monkeypatch):
    with deployed(small("fedavg_lora", "run.rounds=2"), tmp_path / "certificates", deadline_s=50.0) as servers:
        waited, wait_for = [], servers.plane.wait_for

        def silent(patience_s_by_client):
            waited.append(patience_s_by_client[ONE])
            servers.plane.give_up(ONE, "it did not open its stream")
            wait_for(patience_s_by_client)

        monkeypatch.setattr(servers.plane, "wait_for", silent)
        play(servers, 2)
    assert waited == [60.0, 50.0]


def test_a_device_that_is_too_late_again_and_again_is_asked_less_and_less_often_until_it_is_in_time(
    tmp_path, monkeypatch
):
    asked, late_in = [], range(7)
    with deployed(small("fedavg_lora", "run.rounds=10"), tmp_path / "certificates") as servers:
        open_round, wait_for = servers.plane.open_round, servers.plane.wait_for

        def opened(index, contracts, *pace):
            asked.extend(index for contract in contracts if contract.client == ONE)
            return open_round(index, contracts, *pace)

        def too_late(patience_s_by_client):
            if servers.round in late_in and ONE in patience_s_by_client:
                servers.plane.stream(ONE).fail("client 1 did not open its stream in time", Reason.LATE)
            wait_for(patience_s_by_client)

        monkeypatch.setattr(servers.plane, "open_round", opened)
        monkeypatch.setattr(servers.plane, "wait_for", too_late)
        records = [told(outcome) for outcome in play(servers, 10)]
    assert asked == [0, 1, 3, 7, 8, 9]
    assert [record["lost"][0]["why"] for record in records if record["round"] in (2, 4)] == [
        "client 1 was too late 2 times in a row; rounds until it is asked again: 1",
        "client 1 was too late 3 times in a row; rounds until it is asked again: 3",
    ]
    assert [record["active_K"] for record in records[7:]] == [[True] * NUM_DEVICES] * 3
