"""Codec payloads as bytes, and what a payload that arrives must look like.

Nothing that arrives is trusted: names, dtypes and shapes must be exactly those that the codec writes for a message of
the expected size, and what it decodes to must be finite.
"""

import math
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache

import safetensors
import torch
from safetensors.torch import load, save

from wavetune.data_plane.messages_pb2 import Part
from wavetune.data_plane.refusal import Reason, RefusedError, quoted
from wavetune.errors import first_line
from wavetune.federation import messages
from wavetune.federation.codecs import Chain, Codec, Context, Payload
from wavetune.federation.codecs.codec import receive

Spec = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
LABELS = "labels_up"
_HEADER_BYTES, _MOST_TENSORS = 1024, 4096  # of a tensor's name, type, shape and place; of a message that has no spec
_SUBNORMAL = 0.01  # of a message's values may be, with which a processor multiplies 150 times slower


def pack(payload: Payload) -> bytes:
    """A payload's tensors as safetensors bytes."""
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in payload.items()})


def num_bytes(payload: Payload) -> int:
    """Bytes of a payload's values, which are all that is metered."""
    return sum(t.numel() * t.element_size() for t in payload.values())


@lru_cache(maxsize=4096)
def spec_of(codec: Codec, rows: int, width: int) -> Spec:
    """Names, dtypes and shapes of what a codec writes for `[rows, width]` values."""
    return as_tensors(codec.fields(rows, width))


def as_tensors(declared: messages.Spec) -> Spec:
    """Names, dtypes and shapes of a message that was declared."""
    return {
        name: (getattr(torch, field.format), tuple(int(size) for size in field.shape))
        for name, field in declared.items()
    }


def spec_like(payload: Payload) -> Spec:
    """Names, dtypes and shapes of a payload."""
    return {name: (t.dtype, tuple(t.shape)) for name, t in payload.items()}


def unpack(content: bytes, spec: Spec, what: str) -> Payload:
    """The tensors that arrived. Raises RefusedError unless they fit the spec to the letter."""
    largest = sum(math.prod(shape) * dtype.itemsize for dtype, shape in spec.values())
    if len(content) > largest + _HEADER_BYTES * (1 + len(spec)):
        raise RefusedError(Reason.TOO_LARGE, f"{what}: {len(content)} bytes came where {largest} were expected")
    payload = read_tensors(content, what, len(spec))
    if payload.keys() != spec.keys():
        raise RefusedError(
            Reason.MALFORMED, f"{what}: tensors {sorted(payload)} came where {sorted(spec)} were expected"
        )
    for name, (dtype, shape) in spec.items():
        tensor = payload[name]
        if tensor.dtype != dtype or tuple(tensor.shape) != shape:
            raise RefusedError(
                Reason.MALFORMED,
                f"{what}: tensor {name} came as {tensor.dtype} {list(tensor.shape)}, not {dtype} {list(shape)}",
            )
    return payload


def read_tensors(content: bytes, what: str, most: int = _MOST_TENSORS) -> Payload:
    """At `most` so many tensors in safetensors bytes. Raises RefusedError if they are none, or about more than that."""
    header_bytes = int.from_bytes(content[:8], "little")
    if _HEADER_BYTES * (1 + most) < header_bytes <= len(content):  # to read it takes 25 times as many
        raise RefusedError(Reason.MALFORMED, f"{what}: has a header of more bytes than {most} tensors need")
    try:
        return load(content)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise RefusedError(Reason.MALFORMED, f"{what}: not readable as safetensors ({error})") from error


def came_down(part: Part | None, kind: str, expected: Payload) -> Payload:
    """What the servers sent a device in the place of a payload.

    Raises RefusedError unless it is of this kind and as its codec writes it.
    """
    if part is None or part.kind != kind:
        raise RefusedError(Reason.MALFORMED, f"{kind}: {quoted(part.kind) if part else 'nothing'} came in its place")
    return unpack(part.tensors, spec_like(expected), kind)


def check_values(payload: Payload, codec: Codec, shape: tuple[int, int], what: str) -> None:
    """See that a payload can be decoded. Raises RefusedError if that fails, has another shape or is not finite."""
    whole = payload.keys() == {"values"}  # what is sent is the values themselves
    (x,) = _check_decoded(lambda: {"": payload["values"] if whole else codec.decode(payload)}, {"": shape}, what)
    below = x.abs() < torch.finfo(x.dtype).tiny
    most = _SUBNORMAL * x.numel()
    if below.sum() > most and (below & (x != 0)).sum() > most:
        raise RefusedError(Reason.NOT_FINITE, f"{what}: holds values so small that they make computing slow")


def check_message(payload: Payload, chain: Chain, declared: messages.Spec, what: str) -> None:
    """See that a message of a chain can be decoded, as `check_values` does."""
    context, shapes = Context(0, 0, 0), {name: tuple(map(int, field.shape)) for name, field in declared.items()}
    _check_decoded(lambda: receive(chain, payload, declared, context), shapes, what)


def _check_decoded(
    decode: Callable[[], Payload], shapes: Mapping[str, tuple[int, ...]], what: str
) -> Collection[torch.Tensor]:
    try:
        decoded = decode()
    except Exception as error:  # whatever a codec, of other people too, makes of what was not written by it
        raise RefusedError(Reason.MALFORMED, f"{what}: cannot be decoded ({first_line(error)})") from error
    for name, x in decoded.items():
        if tuple(x.shape) != shapes[name]:
            raise RefusedError(Reason.MALFORMED, f"{what}: decodes to {list(x.shape)}, not {list(shapes[name])}")
        if not torch.isfinite(x.sum()) and not torch.isfinite(x).all():  # the sum alone is quick
            raise RefusedError(Reason.NOT_FINITE, f"{what}: holds values that are not finite")
    return decoded.values()


def check_labels(payload: Payload, vocabulary: int, what: str) -> None:
    """Raise RefusedError unless all labels are token ids."""
    ids = payload["ids"]
    if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= vocabulary):
        raise RefusedError(Reason.MALFORMED, f"{what}: holds labels outside 0 to {vocabulary - 1}")
