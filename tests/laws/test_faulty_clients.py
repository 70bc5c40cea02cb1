"""A client whose finite values break what is computed with them is given up for its round, wherever the run is."""

import json
from dataclasses import replace

import pytest
import torch

from helpers.deployment import deployed, nothing, play
from helpers.runs import EXACT, small, told
from wavetune.errors import DeploymentError, NumericsError, WavetuneError
from wavetune.federation.door import Door
from wavetune.federation.filters.screening import Screening
from wavetune.runtimes import device
from wavetune.runtimes.device_permission import Allowed
from wavetune.runtimes.round import prepare, train_round
from wavetune.runtimes.session import build
from wavetune.runtimes.sliced import job_of, slices_of, training_in
from wavetune.runtimes.worker import Worker

FAULTY, IN_ROUND, WITHOUT = 2, 1, [True, True, False]
SETTINGS = (*EXACT, "run.rounds=3", "method.lora.rank=2")
CUT = ("method.topology.cut=2", "method.activation_codec.kind=fp64", "method.gradient_codec.kind=fp64")
SPLIT = small("sflllm", *SETTINGS, *CUT)
AT_CLIENT = small("sflllm", *SETTINGS, *CUT, "method.topology.labels=client")
SEQUENTIAL = small("split_lora_sequential", *SETTINGS, *CUT)
HUGE, HUGE_SQUARED = 1.5e308, 1e180  # what overflows in fp64 once it is doubled, or squared
UNCUT = small("fedavg_lora", *SETTINGS)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return tmp_path_factory.mktemp("faulty") / "certificates"


def filled(payload, value):
    return {name: torch.full_like(tensor, value) for name, tensor in payload.items()}


def lies(kind, value):
    """A device's stream that fills what it sends of a kind with a value, in one round."""

    class Lying(device.Stream):
        def __init__(self, channel, hello):
            self.lies = (hello.client, hello.round) == (FAULTY, IN_ROUND)
            super().__init__(channel, hello)

        def ask(self, parts=(), *arguments, **keywords):
            if self.lies:
                parts = [(k, filled(payload, value) if k == kind else payload) for k, payload in parts]
            return super().ask(parts, *arguments, **keywords)

    return Lying


def present(session, index):
    """A round as it is prepared where the faulty client is not there."""
    return prepare(session, index).among(WITHOUT if index == IN_ROUND else [True] * 3)


def without(recipe, rounds=3):
    session = build(recipe)
    return [train_round(session, i, nothing, None, present(session, i)) for i in range(rounds)]


def assert_equal(found, wanted):
    for name, pair in wanted.mixed.factors.items():
        for mine, theirs in zip(found.mixed.factors[name].values(), pair.values(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9)


STEPS = {
    "activations": (SPLIT, "activations_up", HUGE),
    "activations_before_a_server_that_takes_turns": (SEQUENTIAL, "activations_up", HUGE),
    "gradients_from_clients_with_labels": (AT_CLIENT, "gradients_up", HUGE),
    "gradients_whose_norm_overflows": (AT_CLIENT, "gradients_up", HUGE_SQUARED),
}


@pytest.mark.parametrize("case", STEPS)
def test_a_device_whose_values_break_a_step_sits_the_round_out_and_is_named(certificates, monkeypatch, case):
    recipe, kind, value = STEPS[case]
    monkeypatch.setattr(device, "Stream", lies(kind, value))
    with deployed(recipe, certificates) as servers:
        found = play(servers, 3)
    for mine, theirs in zip(found, without(recipe), strict=True):
        assert_equal(mine, theirs)
        assert told(mine)["active_K"] == told(theirs)["active_K"]
        assert told(mine)["train_loss"] == pytest.approx(told(theirs)["train_loss"])
    assert [[entry["client"] for entry in told(outcome)["lost"]] for outcome in found] == [[], [FAULTY], []]
    assert "what client 2 sent makes it so" in told(found[IN_ROUND])["lost"][0]["why"]


@pytest.mark.parametrize("value", [HUGE, 1e12])
@pytest.mark.parametrize("recipe", [SPLIT, UNCUT], ids=["split", "uncut"])
def test_a_device_whose_adapters_break_the_mixture_is_left_out_of_it_and_named(
    certificates, monkeypatch, recipe, value
):
    monkeypatch.setattr(device, "Stream", lies("adapters_up", value))
    with deployed(recipe, certificates) as servers:
        found = play(servers, 3)
    (lost,) = told(found[IN_ROUND])["lost"]
    assert lost["client"] == FAULTY
    assert "the mixture gives no finite numbers" in lost["why"]
    assert [told(outcome)["active_K"] for outcome in found] == [[True] * 3] * 3
    assert all(loss < 10 for outcome in found for loss in told(outcome)["train_loss_K"])
    assert max(t.abs().max() for pair in found[-1].mixed.factors.values() for t in pair.values()) < 1


def spoil(session, client):
    """Make what one client sends to the main server huge, in one round."""
    carry = session.door.carry

    def lie(kind, who, payload):
        return filled(payload, HUGE) if (kind, who) == ("activations_up", client) else carry(kind, who, payload)

    session.door.carry = lie


class HereFleet:
    """Workers in this process, where one client's values are huge in its worker's own door."""

    def __init__(self, session, faulty):
        self.slices = slices_of(session, 2)
        self.workers = [Worker(job_of(session), clients, "cpu") for clients in self.slices]
        self.faulty = faulty

    def ask(self, method, requests, again=False):
        for worker in self.workers:
            worker._cohort.link.door.carry = Door().carry
            if self.faulty() and FAULTY in worker.clients:
                spoil(type("Session", (), {"door": worker._cohort.link.door}), FAULTY)
        return [getattr(self.workers[worker], method)(*arguments) for worker, arguments in requests]

    def share(self, value):
        return value


@pytest.mark.parametrize("recipe", [SPLIT, SEQUENTIAL], ids=["parallel", "sequential"])
@pytest.mark.parametrize("sliced", [False, True], ids=["in_one_process", "in_workers"])
def test_a_simulated_client_whose_values_break_a_step_sits_the_round_out_and_is_named(recipe, sliced):
    session, index, found = build(recipe), 0, []
    plain = session.door.carry

    def play_all(train):
        nonlocal index
        for index in range(3):
            session.door.carry = plain
            if index == IN_ROUND and not sliced:
                spoil(session, FAULTY)
            found.append(train(session, index, nothing, None))

    if sliced:
        with training_in(session, HereFleet(session, lambda: index == IN_ROUND), nothing) as trainer:
            play_all(trainer.train_round)
    else:
        play_all(train_round)
    for mine, theirs in zip(found, without(recipe), strict=True):
        assert_equal(mine, theirs)
        assert told(mine)["active_K"] == told(theirs)["active_K"]
        assert told(mine)["train_loss_K"] == pytest.approx(told(theirs)["train_loss_K"])
    assert [[entry["client"] for entry in told(outcome)["lost"]] for outcome in found] == [[], [FAULTY], []]
    assert "given up in local step 0" in told(found[IN_ROUND])["lost"][0]["why"]


@pytest.mark.parametrize("recipe", [SPLIT, UNCUT], ids=["split", "uncut"])
def test_a_learning_rate_at_which_all_devices_fail_ends_the_run_with_its_name(certificates, recipe):
    optimiser = replace(recipe.method.optimiser, learning_rate=1e25, warmup_steps=0, schedule="constant")
    wild = replace(recipe, method=replace(recipe.method, optimiser=optimiser))
    with deployed(wild, certificates) as servers:
        with pytest.raises(NumericsError, match=r"round \d.*method\.optimiser\.learning_rate"):
            play(servers, 3)
        servers.plane.close_round("the round is over")  # whose step ended in the error, while devices wait in it
        servers.coordinator.dismiss("the test is over")


def test_adapters_that_are_set_to_zero_are_not_out_of_proportion():
    norms, sizes = {0: 0.0027, 1: 0.0028, 2: 1.17}, {0: 1.17, 1: 1.17, 2: 1.17}
    assert Screening().rejected(norms, {}, sizes) == {}
    assert list(Screening().rejected(norms | {2: 1.3}, {}, sizes)) == [2]


def test_a_device_that_was_not_given_leave_for_its_servers_data_says_so_and_the_record_names_it(certificates, tmp_path):
    corpus = [{"prompt": f"{k} and {k} is", "answer": str(2 * k)} for k in range(40)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in corpus))
    recipe = small("fedavg_lora", f"world.data.source={tmp_path / 'sums.jsonl'}", "world.data.train_samples=30")
    own = {0: Allowed(data=str(tmp_path / "sums.jsonl")), 1: Allowed(data=str(tmp_path / "sums.jsonl")), 2: Allowed()}
    said = []
    with deployed(recipe, certificates, allowed=own, say=said.append) as servers:
        (outcome,) = play(servers, 1)
    (lost,) = told(outcome)["lost"]
    assert lost["client"] == 2
    assert "start it with --data PATH" in lost["why"] + lost.get("claim", "")
    assert any("start it with --data PATH" in text for text in said)
    assert sum(text.startswith("data: 30 training") and "of sums" in text for text in said) == 2  # the others' own rows


class Excused(device.Stream):
    """Sends what cannot be mixed, and reports a reason of its own."""

    def ask(self, parts=(), *arguments, **keywords):
        parts = [(kind, filled(payload, float("nan"))) for kind, payload in parts]
        try:
            return super().ask(parts, *arguments, **keywords)
        except WavetuneError:
            raise DeploymentError("the \x1b[31mcat\x07 " + "sat " * 9999) from None


def test_what_the_servers_saw_of_a_lost_device_stands_before_what_it_says_of_itself(certificates, monkeypatch):
    streams = device.Stream
    monkeypatch.setattr(
        device, "Stream", lambda channel, hello: (Excused if hello.client == FAULTY else streams)(channel, hello)
    )
    with deployed(UNCUT, certificates) as servers:
        (outcome,) = play(servers, 1)
    (lost,) = told(outcome)["lost"]
    assert lost["client"] == FAULTY
    assert "not finite" in lost["why"]
    assert "cat" not in lost["why"]
    assert lost["claim"].startswith("the \\x1b[31mcat")
    assert len(lost["claim"]) < 1000
