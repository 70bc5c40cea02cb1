"""Of what is personal nothing crosses the air: neither its bytes nor anything that depends on it."""

import numpy as np
import pytest
import torch

from helpers.runs import small
from wavetune.runtimes.round import train_round
from wavetune.runtimes.session import build

PERSONAL_LORA = ("method.bottleneck.width=4", 'method.sharing.shared=["bottleneck"]', "method.lora.rank=[2,4,1]")
LONGER = "world.data.max_tokens=96"  # few tokens give many weights the same first step
TASK = ("world.model=tiny-bert", "world.data.template.kind=class", "run.samples=0")


class Wire:
    def __init__(self):
        self.sent = []

    def carry(self, kind, _client, payload):
        for tensor in payload.values():
            self.sent.append((kind, tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()))
        return payload


@pytest.fixture(scope="module")
def played():
    session, wire = build(small("fedavg_lora", *PERSONAL_LORA, LONGER)), Wire()
    session.door.carry = wire.carry
    trained = []

    def before_mixing():
        trained.append({n: {k: t.detach().clone() for k, t in p.items()} for n, p in session.cohort.bank.local.items()})

    for index in range(2):
        train_round(session, index, lambda *_: None, before_mixing)
    return session, wire, trained


def test_the_bytes_on_the_wire_contain_no_value_of_a_personal_adapter(played):
    session, wire, trained = played
    stream = b"".join(content for _, content in wire.sent)
    sent = np.frombuffer(stream, np.float32)
    assert len(sent)
    personal = {s.name for s in session.cohort.bank.sites if s.kind == "lora"}
    assert personal
    for states in trained:
        found, count = dict[str, int](), 0
        for name in personal:
            for letter, tensor in states[name].items():
                values = tensor.numpy()[np.abs(tensor.numpy()) > 1e-8]
                assert len(values)
                found[f"{name} {letter}"], count = int(np.isin(values, sent).sum()), count + len(values)
        assert sum(found.values()) < 0.005 * count, found  # chance: floats share their 24 bits now and then


def test_shared_values_are_found_by_the_same_search(played):
    session, wire, trained = played
    sent = np.frombuffer(b"".join(content for _, content in wire.sent), np.float32)
    shared = [s.name for s in session.cohort.bank.sites if s.kind == "bottleneck"]
    values = np.concatenate([t.numpy().ravel() for states in trained for n in shared for t in states[n].values()])
    assert np.isin(values, sent).mean() > 0.9


def test_a_client_keeps_its_personal_adapter_when_the_broadcast_comes(played):
    session, _, trained = played
    for site in session.cohort.bank.sites:
        own = session.cohort.bank.local[site.name]
        kept = all(torch.equal(a, b) for a, b in zip(own.values(), trained[-1][site.name].values(), strict=True))
        assert kept == (site.kind == "lora"), site.name
