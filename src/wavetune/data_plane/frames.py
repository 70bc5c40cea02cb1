"""Frames as bytes: what protobuf and safetensors would write, put together in one pass over the tensors.

Either library copies what it is given, three times over by the time that a frame is whole; a frame of activations is
megabytes. Reading is left to both.
"""

import json
from collections.abc import Sequence

import torch

from wavetune.data_plane.messages_pb2 import Frame, Part
from wavetune.federation.codecs import Payload

_LENGTH_DELIMITED = 2
_PART, _TENSORS = (
    bytes([message.DESCRIPTOR.fields_by_name[name].number << 3 | _LENGTH_DELIMITED])
    for message, name in ((Frame, "parts"), (Part, "tensors"))
)
_DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.int32: "I32", torch.int8: "I8"}


def frame_bytes(frame: Frame, parts: Sequence[tuple[str, Payload]]) -> bytes:
    """A frame without parts, with these: (kind, payload)."""
    pieces: list[bytes | memoryview] = [frame.SerializeToString()]
    for kind, payload in parts:
        tensors = _safetensors(payload)
        size = sum(len(piece) for piece in tensors)
        start = Part(kind=kind).SerializeToString() + _TENSORS + _varint(size)
        pieces += [_PART, _varint(len(start) + size), start, *tensors]
    return b"".join(pieces)


def _safetensors(payload: Payload) -> list[bytes | memoryview]:
    """The pieces of a safetensors file: its header, then each tensor's memory."""
    header, memory, end = dict[str, object](), list[memoryview](), 0
    for name, tensor in payload.items():
        memory.append(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        start, end = end, end + len(memory[-1])
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors start at a multiple of 8 bytes
    return [len(text).to_bytes(8, "little") + text, *memory]


def _varint(number: int) -> bytes:
    """Seven bits a byte, the least first; all but the last have their highest bit set.

    >>> _varint(300)
    b'\\xac\\x02'
    """
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)
