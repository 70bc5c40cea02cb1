"""Devices that fail in a deployed round: the round goes on, and ends as if their lost contributions had not been."""

import threading
from dataclasses import replace

import pytest
import torch

from helpers.deployment import deployed, nothing, play
from helpers.runs import EXACT, small, told
from wavetune.errors import DeploymentError
from wavetune.federation.cohort import Cohort
from wavetune.federation.door import Door
from wavetune.federation.nodes import Nodes
from wavetune.runtimes import deployed as served
from wavetune.runtimes.device_half import Device
from wavetune.runtimes.round import prepare, train_round
from wavetune.runtimes.session import build

SETTINGS = ("run.rounds=3", "method.topology.cut=2", "method.lora.rank=2")
RECIPE = small("sflllm", *EXACT, *SETTINGS)
AT_CLIENT = small("sflllm", *EXACT, *SETTINGS, "method.topology.labels=client")
FAILING, IN_ROUND = 2, 1
WITHOUT = [True, True, False]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return tmp_path_factory.mktemp("lost") / "certificates"


@pytest.fixture
def fail(monkeypatch):
    """Let the device fail before a local step of its round; its stream breaks without a word."""

    def at(step_of_round):
        train, step, under_way = Device.train, Cohort.step, []

        def tracked(device, order, wire):
            failing = (device.client, order.round) == (FAILING, IN_ROUND)
            under_way.append((device.cohort, order.round * order.local_steps if failing else None, [0]))
            train(device, order, wire)

        def failing_step(cohort, *arguments):
            own = (entry for entry in reversed(under_way) if entry[0] is cohort)
            _, first, count = next(own, (cohort, None, [0]))  # a cohort that is no device's does not fail
            count[0] += 1
            if first is not None and count[0] == step_of_round + 1:
                raise DeploymentError("the battery is empty")
            return step(cohort, *arguments)

        monkeypatch.setattr(Device, "train", tracked)
        monkeypatch.setattr(Cohort, "step", failing_step)

    return at


def assert_equal(found, wanted):
    assert found.factors.keys() == wanted.factors.keys()
    for name, pair in wanted.factors.items():
        for mine, theirs in zip(found.factors[name].values(), pair.values(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10, msg=lambda m, name=name: f"{name}: {m}")


def present(session, index):
    """A round as it is prepared where the failing device is not there."""
    return prepare(session, index).among(WITHOUT if index == IN_ROUND else [True] * 3)


def test_a_device_lost_before_its_first_step_sits_the_round_out_and_comes_back(certificates, fail):
    fail(0)
    with deployed(RECIPE, certificates) as servers:
        found = play(servers, 3)
    session = build(RECIPE)
    wanted = [train_round(session, i, nothing, None, present(session, i)) for i in range(3)]
    for mine, theirs in zip(found, wanted, strict=True):
        assert_equal(mine.mixed, theirs.mixed)
        assert told(mine)["active_K"] == told(theirs)["active_K"]
        assert told(mine)["train_loss"] == pytest.approx(told(theirs)["train_loss"], rel=1e-10)
    assert [[entry["client"] for entry in told(outcome)["lost"]] for outcome in found] == [[], [FAILING], []]
    assert told(found[IN_ROUND])["train_loss_K"][FAILING] is None


@pytest.mark.parametrize("recipe", [RECIPE, AT_CLIENT], ids=["labels_at_server", "labels_at_clients"])
def test_a_device_lost_between_two_steps_leaves_what_it_gave_the_server_and_nothing_else(recipe, certificates, fail):
    fail(1)
    with deployed(recipe, certificates) as servers:
        found = play(servers, 2)[IN_ROUND]
    session = build(recipe)
    train_round(session, 0, nothing)
    assert_equal(found.mixed, round_without_upload(session, steps_without=[1]))
    assert [entry["client"] for entry in told(found)["lost"]] == [FAILING]
    assert told(found)["active_K"] == [True] * 3


def test_a_device_without_a_cut_that_fails_in_a_step_sits_the_round_out_and_keeps_what_it_had(
    certificates, monkeypatch
):
    local_steps = Device.local_steps

    def failing(device, order):
        for number, result in enumerate(local_steps(device, order)):
            if (device.client, order.round, number) == (FAILING, IN_ROUND, 1):
                raise DeploymentError("the battery is empty")
            yield result

    monkeypatch.setattr(Device, "local_steps", failing)
    recipe = small("fedavg_lora", *EXACT, "run.rounds=3", "method.lora.rank=2")
    with deployed(recipe, certificates) as servers:
        found = play(servers, 3)
    session = build(recipe)
    wanted = [train_round(session, i, nothing, None, present(session, i)) for i in range(3)]
    for mine, theirs in zip(found, wanted, strict=True):
        assert_equal(mine.mixed, theirs.mixed)
        assert told(mine)["active_K"] == told(theirs)["active_K"]
    assert [[entry["client"] for entry in told(outcome)["lost"]] for outcome in found] == [[], [FAILING], []]


@pytest.mark.parametrize(("factor", "counts", "why"), [(1e-4, True, "under a hundredth"), (1e3, False, "in no mean")])
def test_a_loss_far_from_the_others_is_named_in_the_record_and_told_once(
    certificates, monkeypatch, factor, counts, why
):
    local_steps = Device.local_steps

    def lying(device, order):
        for result in local_steps(device, order):
            scale = factor if device.client == FAILING else 1.0
            yield replace(result, loss_K=[loss * scale for loss in result.loss_K])

    monkeypatch.setattr(Device, "local_steps", lying)
    said = []
    with deployed(small("fedavg_lora", *EXACT, "run.rounds=2"), certificates) as servers:
        servers.say = said.append
        found = [told(outcome) for outcome in play(servers, 2)]
    for record in found:
        (one,) = record["refused"]
        assert one["who"] == "device-02"
        assert why in one["why"]
        losses = record["train_loss_K"]
        typical = sum(losses[:2]) / 2
        assert (record["train_loss"] < 0.9 * typical) == counts
        assert record["train_loss"] < 1.1 * typical
    assert sum(line.startswith("device-02: its") for line in said) == (1 if counts else 2)


def test_adapters_that_are_not_finite_are_refused_and_named(certificates, monkeypatch):
    upload = Nodes.upload

    def broken(adapters, *given):
        for pair in adapters.bank.local.values() if adapters.bank is rotten[0] else ():
            with torch.no_grad():
                pair["B"].fill_(float("nan"))
        return upload(adapters, *given)

    train, rotten = Device.train, [None]

    def tracked(device, order, wire):
        if (device.client, order.round) == (FAILING, IN_ROUND):
            rotten[0] = device.cohort.bank
        train(device, order, wire)

    monkeypatch.setattr(Nodes, "upload", broken)
    monkeypatch.setattr(Device, "train", tracked)
    with deployed(RECIPE, certificates) as servers:
        found = play(servers, 2)[IN_ROUND]
    session = build(RECIPE)
    train_round(session, 0, nothing)
    assert_equal(found.mixed, round_without_upload(session, steps_without=[]))
    (lost,) = told(found)["lost"]
    assert lost["client"] == FAILING
    assert "adapters_up of client 2: holds values that are not finite" in lost["why"]


def round_without_upload(session, steps_without):
    """Round 1 in this process, in whose named steps the failing client has no part, nor in the exchange."""
    run, method = session.recipe.run, session.recipe.method
    for i in range(run.local_steps):
        step = IN_ROUND * run.local_steps + i
        factor = method.optimiser.factor(step, run.rounds * run.local_steps)
        active = WITHOUT if i in steps_without else None
        session.cohort.step(session.data.train, session.step_rows(step), factor, active)
    return session.server.exchange(session.cohort.placement.weight_K, Door(), [True] * 3, WITHOUT)


def test_servers_do_not_wait_for_who_keeps_grpc_from_stopping(certificates, monkeypatch):
    class Unending:
        """A server whose end nobody hears of."""

        def __init__(self, server):
            self.server = server

        def stop(self, grace):
            self.server.stop(grace)
            return threading.Event()

    def unending(*arguments):
        server, port = serve(*arguments)
        return Unending(server), port

    serve = served.serve
    monkeypatch.setattr(served, "serve", unending)
    monkeypatch.setattr(served, "_CLOSING_S", 0.5)
    with deployed(RECIPE, certificates) as servers:
        assert len(play(servers, 1)) == 1
