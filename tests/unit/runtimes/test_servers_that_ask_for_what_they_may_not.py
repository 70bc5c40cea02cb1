"""Servers of the run's own authority that turned bad: a device refuses in a sentence and stays as it was."""

import json
import math
import re
import socket

import pytest
import torch
from safetensors.torch import save

from helpers.deployment import nothing
from helpers.runs import ALIGNED, small
from wavetune import machine_memory
from wavetune.data_plane.certificates import read_identity, write_certificates
from wavetune.data_plane.messages_pb2 import Align, Part, RewardModel, RoundOrder
from wavetune.data_plane.payloads import pack
from wavetune.data_plane.server import Measured
from wavetune.errors import ConfigError, DeploymentError
from wavetune.federation.codecs import Int8
from wavetune.models.reward import ABOUT
from wavetune.runtimes import device
from wavetune.runtimes.alignment.device import OwnAlignment
from wavetune.runtimes.device import Agent
from wavetune.runtimes.device_half import build_device
from wavetune.runtimes.device_permission import Allowed
from wavetune.runtimes.orders import Orders
from wavetune.runtimes.session import build

SYSTEMS = {
    "uncut": small("fedavg_lora"),
    "split": small("sflllm", "method.topology.cut=2", "method.gradient_codec.kind=int8"),
}


@pytest.fixture(scope="module")
def orders():
    """An honest order for the first round of each."""
    return {name: Orders(build(recipe), None, "a run", "", 1, 1).order(0) for name, recipe in SYSTEMS.items()}


@pytest.fixture(scope="module")
def agents():
    """A device for each, without servers."""
    return {name: Agent(0, "", None, None, nothing, Allowed()) for name in SYSTEMS}


def changed(order, **fields):
    asked = RoundOrder()
    asked.CopyFrom(order)
    for name, value in fields.items():
        asked.ClearField(name)
        asked.MergeFrom(RoundOrder(**{name: value}))
    return asked


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"cuts": []}, "the order's cuts are 0"),
        ({"cuts": [99] * 3}, "its model takes a cut from 1 to 4"),
        ({"ranks": [4, 4]}, "the order's ranks are 2 .* its recipe has 3 clients"),
        ({"ranks": [4, 4, 10**8]}, "its model takes a rank from 0 to 64"),
        ({"round": 2}, "for round 3, which its recipe of 2 rounds has not"),
        ({"round": 7, "listen": True}, "for round 8, which"),
        ({"round": 2, "align": Align(steps=1)}, "for step 1 of alignment after round 3, which"),
        ({"local_steps": 10**6}, "1000000 local steps, and its recipe 2"),
        ({"batch_size": 3}, "batches of 3 rows, and its recipe takes 1 to 2"),
        ({"batch_size": 0}, "batches of 0 rows, and its recipe takes 1 to 2"),
        ({"main_bit_per_s": 1e-300}, "a rate of 1e-300 bit/s"),
        ({"fed_bit_per_s": -1.0}, "a rate of -1 bit/s"),
        ({"fed_bit_per_s": math.nan}, "a rate of nan bit/s"),
        ({"blocks": [1, 4]}, "about block 4 of a model of 4 blocks"),
        ({"frozen": ["A", "C"]}, "freezes C, and the factors of LoRA are A and B"),
        ({"address": "unix:/tmp/socket"}, "is not an address"),
        ({"adapters": b"rubbish"}, "the adapters of the order: not readable as safetensors"),
        ({"adapters": save({"a": torch.zeros(1)})}, "do not fit"),
        ({"recipe": "{"}, "the recipe of the order: not JSON at"),
        ({"recipe": "[]"}, "is no JSON object"),
    ],
    ids=str,
)
def test_an_order_that_its_recipe_has_no_place_for_is_refused(orders, agents, fields, words):
    report = agents["uncut"].handle(changed(orders["uncut"], **fields))
    assert re.search(words, report.failure)


def test_adapters_of_an_order_that_are_not_finite_are_refused(orders, agents):
    agent = agents["uncut"]
    assert "not finite" not in agent.handle(changed(orders["uncut"], listen=True)).failure
    own = agent._device.cohort.bank.copies(0)
    report = agent.handle(changed(orders["uncut"], adapters=save({n: t * math.inf for n, t in own.items()})))
    assert "hold values that are not finite" in report.failure


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("method.lora.rank=1000000000", "method.lora.rank is 1000000000 but must be between 1 and 64"),
        ("method.bottleneck.width=1000000000", "method.bottleneck.width is 1000000000"),
        ("method.soft_prompt.tokens=1000000000", "method.soft_prompt.tokens is 1000000000"),
        ("method.soft_prompt.tokens=60000", "a row has .* tokens but the model takes 512"),
        ("world.data.train_samples=1000000000", "of restaurants at most 1,000,000 rows"),
        ("world.data.batching.batch_size=1000000000", "batch_size is 1000000000"),
        (
            f"method.adapter_codec={json.dumps(1000 * ['fp32'])}",
            "method.adapter_codec holds 1,000 parts and may hold 100",
        ),
        ("method.lora.alpha=1e308", "method.lora.alpha is 1e\\+308"),
    ],
    ids=lambda text: text[:30],
)
def test_a_recipe_that_no_machine_could_follow_is_refused_before_it_takes_memory(orders, agents, setting, words):
    recipe = json.loads(orders["uncut"].recipe)
    *inside, last = setting.partition("=")[0].split(".")
    place = recipe
    for name in inside:
        place[name] = place.get(name) or {}
        place = place[name]
    place[last] = json.loads(setting.partition("=")[2])
    report = agents["uncut"].handle(changed(orders["uncut"], recipe=json.dumps(recipe)))
    assert re.search(words, report.failure)


@pytest.mark.parametrize(
    ("adapters", "words"),
    [
        ({"bottleneck": {"width": 65536}}, "adapters of .* values that are trained take .* GB"),
        ({"soft_prompt": {"tokens": 400}}, "rows with 400 tokens before each take .* GB"),
    ],
    ids=["bottleneck", "soft prompt"],
)
def test_adapters_that_the_memory_cannot_hold_are_refused(orders, agents, monkeypatch, adapters, words):
    monkeypatch.setattr(machine_memory, "memory_bytes", lambda: 1000)
    recipe = json.loads(orders["uncut"].recipe)
    recipe["method"] |= adapters
    report = agents["uncut"].handle(changed(orders["uncut"], recipe=json.dumps(recipe)))
    assert re.search(words, report.failure)


def test_parts_that_do_not_go_together_are_refused_by_devices_too(orders, agents):
    """Servers that turned bad would not; in a split the activations go without the noise that was asked for."""
    recipe = json.loads(orders["split"].recipe)
    recipe["method"]["privacy"] = {}
    report = agents["split"].handle(changed(orders["split"], recipe=json.dumps(recipe)))
    assert re.search(r"method\.privacy.* needs .*method\.topology", report.failure)


def test_a_run_goes_on_with_the_recipe_with_which_it_began_here_alone(orders, tmp_path):
    """Servers that share in the next round what the first kept on the device would have its private adapters."""

    def sharing(*kinds, run="a run"):
        recipe = json.loads(orders["uncut"].recipe)
        recipe["method"] |= {"bottleneck": {"width": 4}, "sharing": {"shared": kinds}}
        return changed(orders["uncut"], recipe=json.dumps(recipe), listen=True, run=run)

    def agent():
        return Agent(0, "", None, tmp_path, nothing, Allowed())

    words = "method.sharing.shared of the servers' recipe is not what it was when this run began here"
    first = agent()
    assert first.handle(sharing("bottleneck")).failure == ""
    for _ in range(2):
        assert first.handle(sharing("bottleneck", "lora")).failure == words
    assert agent().handle(sharing("bottleneck", "lora")).failure == words
    assert agent().handle(sharing("bottleneck", "lora", run="another")).failure == ""
    assert agent().handle(sharing("bottleneck")).failure == ""


@pytest.mark.parametrize(("bound", "begun"), [({"most_runs": 2}, "ab"), ({"most_bytes": 1}, "a")])
def test_no_further_run_begins_where_the_folder_holds_enough_and_those_begun_go_on(orders, tmp_path, bound, begun):
    def failure(run):
        agent = Agent(0, "", None, tmp_path, nothing, Allowed(**bound))
        return agent.handle(changed(orders["uncut"], listen=True, run=run)).failure

    told = {run: failure(run) for run in "abcdab"}
    assert "".join(run for run, why in told.items() if not why) == begun
    assert "a further one may not begin there; remove folders" in told["d"]
    assert len(list(tmp_path.glob("run-*"))) == len(begun) - 1


def test_servers_that_never_save_do_not_have_a_device_keep_states_without_end(orders, tmp_path):
    recipe = json.loads(orders["uncut"].recipe)
    recipe["run"] |= {"checkpoint_every": 1000, "rounds": 1000}
    agent = Agent(0, "", None, tmp_path, nothing, Allowed(most_bytes=3e5))
    for done in range(9):
        order = changed(orders["uncut"], recipe=json.dumps(recipe), listen=True, round=done)
        assert agent.handle(order).failure == ""
    states = sorted(tmp_path.glob("state-*"))
    assert states[-1].name == "state-000009.safetensors"
    assert 1 < len(states) < 9
    assert sum(path.stat().st_size for path in states) < 4e5


def test_alignment_without_a_folder_is_refused_each_time(orders):
    recipe = json.loads(orders["uncut"].recipe)
    truth = {"kind": "python", "function": "wavetune.data.concierge_truth:helpful"}
    recipe["method"] |= {"bottleneck": {"width": 4}, "sharing": {"shared": ["bottleneck"]}}
    recipe["method"]["alignment"] = {"helpful": truth, "safe": truth}
    recipe["world"]["data"]["source"] = "concierge"
    agent = Agent(0, "", None, None, nothing, Allowed())
    for _ in range(2):
        assert "needs a folder" in agent.handle(changed(orders["uncut"], recipe=json.dumps(recipe))).failure


def test_what_nobody_has_thought_of_is_told_and_the_device_goes_on(orders, agents, monkeypatch):
    def fails(*_):
        raise RuntimeError("value cannot be converted")

    with monkeypatch.context() as patch:
        patch.setattr(Agent, "_channel", fails)
        failure = agents["uncut"].handle(orders["uncut"]).failure
    assert failure == "it cannot be done (RuntimeError: value cannot be converted)"


def test_an_address_of_an_order_where_nobody_is_ends_that_round_alone(orders, tmp_path, monkeypatch):
    write_certificates(tmp_path, 1)
    monkeypatch.setattr(device, "_REACH_S", 0.2)
    agent = Agent(0, "", read_identity(tmp_path / "device-00"), None, nothing, Allowed())
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    report = agent.handle(changed(orders["uncut"], address=address))
    assert report.failure.startswith(f"the servers that gave this order are not at {address}")


def test_no_more_is_taken_of_an_answer_than_a_round_needs(orders, agents, monkeypatch):
    asked = []

    def connect(_address, _identity, most_bytes):
        asked.append(most_bytes)
        raise DeploymentError("nobody is there")

    monkeypatch.setattr(device, "connect", connect)
    order = changed(orders["split"], address="127.0.0.1:1")
    assert agents["split"].handle(order).failure == "nobody is there"
    assert 4 << 20 < asked[0] < 5 << 20


def test_what_is_wrong_with_a_devices_own_rows_is_not_told_to_the_servers(orders, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"my secret": "HIV"}\n')
    said = []
    agent = Agent(0, "", None, None, said.append, Allowed(data=str(tmp_path / "rows.jsonl")))
    failure = agent.handle(orders["uncut"]).failure
    assert failure == "its own data are not such as the recipe reads; its log says why"
    assert "my secret" in said[-1]


class Answering:
    """A stream whose servers answer as `answer` says, of what went up."""

    def __init__(self, answer):
        self.answer, self.measured = answer, Measured()

    def ask(self, parts=(), *_, **__):
        return self.answer(dict(parts))

    def close(self):
        pass


def gradients(**changes):
    """Gradients of zeros, of which some tensors are changed."""

    def answer(up):
        payload = Int8().encode(torch.zeros_like(up["activations_up"]["values"], dtype=torch.float32))
        payload |= {name: change(payload[name]) for name, change in changes.items()}
        return Part(kind="gradients_down", tensors=pack(payload))

    return answer


def adapters(change, kind="adapters_down"):
    def answer(up):
        return Part(kind=kind, tensors=pack({name: change(t) for name, t in up["adapters_up"].items()}))

    return answer


@pytest.mark.parametrize(
    ("system", "answer", "words"),
    [
        ("split", lambda _up: None, "gradients_down: nothing came"),
        ("split", lambda _up: Part(kind="else"), "gradients_down: else came"),
        ("split", lambda _up: Part(kind="gradients_down", tensors=b"junk" * 9), "not readable as safetensors"),
        ("split", gradients(scale=lambda t: t[1:]), "tensor scale came as"),
        ("split", gradients(index=lambda t: t + 10**6), "cannot be decoded"),
        ("split", gradients(scale=lambda t: t + math.nan), "gradients_down: holds values that are not finite"),
        ("uncut", lambda _up: None, "adapters_down: nothing came"),
        ("uncut", adapters(torch.Tensor.int), "came as torch.int32"),
        ("uncut", adapters(lambda t: t + math.inf), "hold values that are not finite"),
    ],
)
def test_an_answer_that_is_not_what_the_round_takes_is_refused_and_the_device_is_as_before(
    orders, agents, monkeypatch, system, answer, words
):
    agent = agents[system]
    monkeypatch.setattr(Agent, "_channel", nothing)
    monkeypatch.setattr(device, "Stream", lambda *_: Answering(answer))
    report = agent.handle(orders[system])
    assert words in report.failure
    assert agent.introduce().states == [0]


def test_a_reward_model_of_the_servers_opens_the_base_model_that_the_recipe_names_and_no_other(tmp_path):
    embedded = ("method.alignment.helpful.kind=embedded", "method.alignment.helpful.training.rank=2")
    recipe = small("pwff", *ALIGNED, *embedded)
    session = build(recipe)
    order = Orders(session, None, "a run", "", 1, 1).order(0)
    own = OwnAlignment(build_device(order, 0, nothing), tmp_path, nothing)

    def sent(name="helpful", **about):
        told = {"model": "/home/somebody", "rank": 10**9, "max_tokens": 8} | about
        return own._about(RewardModel(name=name, files={ABOUT: json.dumps(told).encode()}))

    assert json.loads(sent()) == {"model": "minilm-l6", "rank": 2, "alpha": 16.0, "targets": [], "max_tokens": 8}
    for bad, words in (({"name": "../.."}, "does not train"), ({"max_tokens": 10**9}, "is not of the recipe's")):
        with pytest.raises(ConfigError, match=words):
            sent(**bad)
