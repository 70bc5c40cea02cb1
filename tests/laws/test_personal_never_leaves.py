"""Of what is personal nothing crosses the air: neither its bytes nor anything that depends on it."""

import numpy as np
import pytest
import torch

from helpers.runs import small
from wavetune.runtimes.round import train_round
from wavetune.runtimes.session import build

RANKS = "method.lora.rank=[2,4,1]"
KEEPING = {
    "LoRA": ("method.bottleneck.width=4", 'method.sharing.shared=["bottleneck"]', RANKS),
    "A": ("method.sharing.factors=B", RANKS),
    "B": ("method.sharing.factors=A", RANKS),
}
LONGER = "world.data.max_tokens=96"  # few tokens give many weights the same first step
TASK = ("world.model=tiny-bert", "world.data.template.kind=class", "run.samples=0")


class Wire:
    def __init__(self):
        self.sent = []

    def carry(self, kind, _client, payload):
        for tensor in payload.values():
            self.sent.append((kind, tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()))
        return payload


@pytest.fixture(scope="module", params=KEEPING)
def played(request):
    """A session after two rounds, what it sent, what clients had trained, and the matrices that they keep."""
    session, wire = build(small("fedavg_lora", *KEEPING[request.param], LONGER)), Wire()
    session.door.carry = wire.carry
    trained = []

    def before_mixing():
        trained.append({n: {k: t.detach().clone() for k, t in p.items()} for n, p in session.cohort.bank.local.items()})

    for index in range(2):
        train_round(session, index, lambda *_: None, before_mixing)
    matrices = [(s.name, m.name, s.kind) for s in session.cohort.bank.sites for m in s.matrices]
    return (
        session,
        wire,
        trained,
        {(name, own) for name, own, kind in matrices if request.param in ("LoRA", own) and kind == "lora"},
    )


def test_the_bytes_on_the_wire_contain_no_value_of_a_personal_adapter(played):
    _, wire, trained, personal = played
    stream = b"".join(content for _, content in wire.sent)
    sent = np.frombuffer(stream, np.float32)
    assert len(sent)
    assert personal
    for states in trained:
        found, count = dict[str, int](), 0
        for name, letter in personal:
            tensor = states[name][letter]
            values = tensor.numpy()[np.abs(tensor.numpy()) > 1e-8]
            assert len(values)
            found[f"{name} {letter}"], count = int(np.isin(values, sent).sum()), count + len(values)
        assert sum(found.values()) < 0.005 * count, found  # chance: floats share their 24 bits now and then


def test_shared_values_are_found_by_the_same_search(played):
    _, wire, trained, personal = played
    sent = np.frombuffer(b"".join(content for _, content in wire.sent), np.float32)
    matrices = [(n, m, t) for states in trained for n, own in states.items() for m, t in own.items()]
    values = np.concatenate([t.numpy().ravel() for n, m, t in matrices if (n, m) not in personal])
    assert np.isin(values[np.abs(values) > 1e-8], sent).mean() > 0.9


def test_a_client_keeps_its_personal_adapter_when_the_broadcast_comes(played):
    session, _, trained, personal = played
    for name, own in session.cohort.bank.local.items():
        for letter, stack in own.items():
            assert torch.equal(stack, trained[-1][name][letter]) == ((name, letter) in personal), (name, letter)
