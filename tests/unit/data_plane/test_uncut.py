"""What the server takes from a device that trains the whole model: adapters and the losses of its steps, no more."""

from dataclasses import dataclass, replace

import pytest

from helpers.data_plane import ADAPTER, ADAPTERS_UP, LABELS, LAYOUT, LOSS, X, contract
from wavetune.data_plane import PROTOCOL_VERSION
from wavetune.data_plane import contract as contract_of_a_round
from wavetune.data_plane.messages_pb2 import Frame, Hello, Layout, Loss, Part
from wavetune.data_plane.payloads import pack
from wavetune.data_plane.refusal import RefusedError
from wavetune.federation.codecs import Bf16, Fp32

UNCUT = replace(contract(), uncut=True)
ADAPTERS = Part(kind="adapters_up", tensors=pack(ADAPTERS_UP))
STEP = Loss(nll=1.5, labelled=2, tokens=5)


def frame(*losses, **more):
    return Frame(sequence=1, parts=[ADAPTERS], losses=losses, **more)


def test_adapters_and_the_losses_of_all_steps_are_taken_in_one_frame():
    assert UNCUT.stages == ("hello", "adapters_up")
    arrived = UNCUT.accept(1, frame(STEP, STEP), 0)
    assert [loss.tokens for loss in arrived.losses] == [5, 5]
    assert (arrived.one("adapters_up")["a|values"] == ADAPTER).all()
    assert len(frame(STEP, STEP).SerializeToString()) < UNCUT.max_frame_bytes < contract().max_frame_bytes + 1000


def test_in_an_outage_losses_come_alone():
    silent = replace(UNCUT, adapters={})
    assert silent.accept(1, Frame(sequence=1, losses=[STEP, STEP]), 0).payloads == ()
    with pytest.raises(RefusedError, match="holds 1 parts"):
        silent.accept(1, frame(STEP, STEP), 0)


REFUSED = {
    "a_step_missing": (frame(STEP), "losses of 1 local steps, not of 2"),
    "not_a_number": (frame(STEP, Loss(nll=float("nan"), labelled=2, tokens=5)), "Loss.nll is nan"),
    "more_labels_than_tokens": (frame(STEP, Loss(nll=1.0, labelled=6, tokens=5)), "over 6 labels"),
    "more_tokens_than_a_batch": (frame(STEP, Loss(nll=1.0, labelled=2, tokens=65)), "a batch of 65 tokens"),
    "activations": (
        Frame(sequence=1, layout=LAYOUT, parts=[Part(kind="activations_up", tensors=pack(Bf16().encode(X)))]),
        "sent layout where adapters_up",
    ),
    "a_second_frame": (Frame(sequence=2, parts=[ADAPTERS]), "frame 2"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_due_is_refused(case):
    sent, words = REFUSED[case]
    with pytest.raises(RefusedError, match=words):
        UNCUT.accept(1, sent, 0)


@pytest.mark.parametrize(
    "crowd",
    [
        {"parts": [Part()] * 9000},
        {"losses": [STEP] * 9000},
        {"layout": Layout(lengths=[1] * 9000)},
        {"layout": Layout(label_positions=range(9000))},
    ],
    ids=["parts", "losses", "lengths", "positions"],
)
def test_a_frame_of_far_more_entries_than_a_batch_has_tokens_is_refused_before_they_are_looked_at(monkeypatch, crowd):
    monkeypatch.setattr(contract_of_a_round, "out_of_bounds", lambda _frame: pytest.fail("somebody looked"))
    with pytest.raises(RefusedError, match="holds 9000 entries of a kind"):
        contract().accept(1, Frame(sequence=1, **crowd), 0)


def test_a_device_before_a_cut_tells_no_losses_with_its_adapters():
    with pytest.raises(RefusedError, match="sent losses where adapters_up"):
        contract(local_steps=0).accept(1, frame(LOSS), 0)


def test_the_number_of_blocks_is_checked_as_a_cut_is():
    with pytest.raises(RefusedError, match="the plan has 2"):
        UNCUT.accept(0, Frame(hello=Hello(version=PROTOCOL_VERSION, width=8, cut=3)), 0)


@dataclass(frozen=True)
class Clumsy(Fp32):
    """Somebody's codec that fails on what it has not written itself, in a way of its own."""

    def decode(self, payload):
        raise KeyError("scale")


def test_what_a_codec_of_other_people_fails_on_is_refused_as_any_other():
    with pytest.raises(RefusedError, match=r"cannot be decoded .*'scale'"):
        replace(UNCUT, chain=(Clumsy(),)).accept(1, frame(STEP, STEP), 0)


def activations(x):
    parts = [Part(kind="activations_up", tensors=pack(Bf16().encode(x))), Part(kind="labels_up", tensors=pack(LABELS))]
    return Frame(sequence=1, layout=LAYOUT, parts=parts)


def test_activations_of_which_many_are_subnormal_are_refused_and_zeros_are_not():
    """A product with them takes the servers' processor 150 times as long."""
    few = X.clone()
    few[0] = 0.0
    assert contract().accept(1, activations(few), 0).stage == "activations_up"
    few[0, 0] = 1e-39
    with pytest.raises(RefusedError, match="so small that they make computing slow"):
        contract().accept(1, activations(few), 0)
