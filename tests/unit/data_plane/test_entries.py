"""What a message holds is bounded before it is read, as read it takes far more memory than its bytes."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.data_plane import ADAPTERS_UP, LAYOUT, up
from wavetune.data_plane.entries import count_entries
from wavetune.data_plane.frames import frame_bytes
from wavetune.data_plane.messages_pb2 import Align, Frame, Layout, Loss, Order, Report, RewardModel, RoundOrder
from wavetune.data_plane.payloads import pack, read_tensors, spec_like, unpack
from wavetune.data_plane.refusal import MOST_ENTRIES, RefusedError, parsed
from wavetune.errors import ConfigError
from wavetune.runtimes.device_half import build_device

MANY = MOST_ENTRIES + 1
REWARDS = Align(rewards=[RewardModel()] * MANY)
CROWDS = {
    "losses": Frame(losses=[Loss()] * MANY),
    "lengths": Frame(layout=Layout(lengths=[1] * (64 * MANY))),
    "names": Order(round=RoundOrder(frozen=[""] * MANY)),
    "rewards": Order(round=RoundOrder(align=REWARDS)),
}


@pytest.mark.parametrize("crowd", CROWDS)
def test_a_message_of_masses_of_entries_is_refused_before_it_is_read(crowd):
    message = CROWDS[crowd]
    with pytest.raises(RefusedError, match="of more than 65536 entries"):
        parsed(type(message), message.SerializeToString(), "something")


def test_fields_that_nobody_knows_count_too():
    unknown = bytes([99 << 3 & 0x7F | 0x80, 99 << 3 >> 7]) + b"\1"  # a number
    with pytest.raises(RefusedError, match="entries"):
        parsed(Frame, unknown * MANY, "something")


def test_a_batch_of_a_million_tokens_is_taken():
    frame = Frame(layout=Layout(lengths=[4096] * 256, label_positions=range(1 << 20)))
    assert parsed(Frame, frame.SerializeToString(), "a frame") == frame


def test_counting_ends_where_it_is_enough():
    content = Frame(losses=[Loss()] * 1000).SerializeToString()
    assert count_entries(content, Frame.DESCRIPTOR, 10) == 11


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([Frame, Order, Report]), st.data())
def test_bytes_that_were_changed_are_a_message_or_refused(kind, data):
    content = bytearray(frame_bytes(Frame(sequence=1, layout=LAYOUT, losses=[Loss(nll=2.0)]), up()))
    for _ in range(data.draw(st.integers(0, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        found = parsed(kind, content, "something")
    except RefusedError:
        return
    assert isinstance(found, kind)


def test_a_header_about_more_tensors_than_are_due_is_refused_before_it_is_read():
    nothing = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({f"{number:0300}": nothing for number in range(20_000)}).encode()
    content = len(header).to_bytes(8, "little") + header
    with pytest.raises(RefusedError, match="header of more bytes"):
        read_tensors(content, "adapters")
    spec = spec_like(ADAPTERS_UP)
    assert unpack(pack(ADAPTERS_UP), spec, "adapters").keys() == spec.keys()
    with pytest.raises(RefusedError, match="header of more bytes"):
        unpack((2080).to_bytes(8, "little") + b" " * 2080, spec, "adapters")


def test_a_recipe_of_megabytes_is_not_read():
    with pytest.raises(ConfigError, match="has 8388608 letters"):
        build_device(RoundOrder(recipe="[" * (8 << 20)), 0, print)
