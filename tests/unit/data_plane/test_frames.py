"""Frames written in one pass are those that protobuf and safetensors write."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load

from wavetune.data_plane.frames import frame_bytes
from wavetune.data_plane.messages_pb2 import Frame, Hello, Layout, Part
from wavetune.data_plane.payloads import pack, spec_of, unpack
from wavetune.federation.codecs import Bf16, Fp32, Int8, TopK

CODECS = [Fp32(), Bf16(), Int8(), TopK()]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(CODECS), st.integers(0, 40), st.integers(1, 70), st.text(max_size=200))),
    st.integers(0, 2**32 - 1),
)
def test_a_frame_is_read_as_what_was_put_in(messages, sequence):
    frame = Frame(sequence=sequence, sent_at_s=0.5, hello=Hello(run="a run"), layout=Layout(lengths=[3, 300]))
    parts = [(kind, codec.encode(torch.randn(rows, width))) for codec, rows, width, kind in messages]
    found = Frame.FromString(frame_bytes(frame, parts))
    whole = Frame(parts=[Part(kind=kind, tensors=pack(payload)) for kind, payload in parts])
    whole.MergeFrom(frame)
    assert [part.kind for part in found.parts] == [part.kind for part in whole.parts]
    for mine, theirs, (codec, rows, width, _) in zip(found.parts, whole.parts, messages, strict=True):
        spec, wanted = spec_of(codec, rows, width), load(theirs.tensors)
        for name, tensor in unpack(mine.tensors, spec, "a part").items():
            assert torch.equal(tensor, wanted[name])
    del found.parts[:], whole.parts[:]
    assert found == whole


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_what_is_not_contiguous_is_written_in_its_order(rows):
    values = torch.randn(5, rows).t()
    (part,) = Frame.FromString(frame_bytes(Frame(), [("adapters_up", {"values": values})])).parts
    assert torch.equal(load(part.tensors)["values"], values)
