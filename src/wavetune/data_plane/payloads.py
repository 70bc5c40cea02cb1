"""Codec payloads as bytes, and what a payload that arrives must look like.

Nothing that arrives is trusted: names, dtypes and shapes must be exactly those that the codec writes for a message of
the expected size, and what it decodes to must be finite.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

import safetensors
import torch
from safetensors.torch import load, save

from wavetune.data_plane.refusal import Reason, RefusedError
from wavetune.federation.codecs import Bf16, Fp32, Fp64, Payload, UpdateCodec

Spec = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
LABELS = "labels_up"


def pack(payload: Payload) -> bytes:
    """A payload's tensors as safetensors bytes."""
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in payload.items()})


def num_bytes(payload: Payload) -> int:
    """Bytes of a payload's values, which are all that is metered."""
    return sum(t.numel() * t.element_size() for t in payload.values())


@lru_cache(maxsize=4096)
def spec_of(codec: UpdateCodec, rows: int, width: int) -> Spec:
    """Names, dtypes and shapes of what a codec writes for `[rows, width]` values."""
    return spec_like(codec.encode(torch.zeros(rows, width)))


def spec_like(payload: Payload) -> Spec:
    """Names, dtypes and shapes of a payload."""
    return {name: (t.dtype, tuple(t.shape)) for name, t in payload.items()}


def labels_spec(labelled: int) -> Spec:
    """Names, dtypes and shapes of the labels of that many positions."""
    return {"ids": (torch.int32, (labelled,))}


def unpack(content: bytes, spec: Spec, what: str) -> Payload:
    """The tensors that arrived. Raises RefusedError unless they fit the spec to the letter."""
    largest = sum(math.prod(shape) * dtype.itemsize for dtype, shape in spec.values())
    if len(content) > largest + 1024 * (1 + len(spec)):
        raise RefusedError(Reason.TOO_LARGE, f"{what}: {len(content)} bytes came where {largest} were expected")
    try:
        payload = load(content)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise RefusedError(Reason.MALFORMED, f"{what}: not readable as safetensors ({error})") from error
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


def check_values(payload: Payload, codec: UpdateCodec, shape: tuple[int, int], what: str) -> None:
    """See that a payload can be decoded. Raises RefusedError if that fails, has another shape or is not finite."""
    if "width" in payload and any(width != shape[1] for width in payload["width"].tolist()):
        raise RefusedError(Reason.MALFORMED, f"{what}: claims to be {payload['width'].tolist()} wide, not {shape[1]}")
    try:
        whole = isinstance(codec, Fp64 | Fp32 | Bf16)  # what is sent is the values themselves
        decoded = payload["values"] if whole else codec.decode(payload)
    except (IndexError, RuntimeError, ValueError) as error:
        raise RefusedError(Reason.MALFORMED, f"{what}: cannot be decoded ({str(error).splitlines()[0]})") from error
    if tuple(decoded.shape) != shape:
        raise RefusedError(Reason.MALFORMED, f"{what}: decodes to {list(decoded.shape)}, not {list(shape)}")
    if not torch.isfinite(decoded.sum()) and not torch.isfinite(decoded).all():  # the sum alone is quick
        raise RefusedError(Reason.NOT_FINITE, f"{what}: holds values that are not finite")


def check_labels(payload: Payload, vocabulary: int, what: str) -> None:
    """Raise RefusedError unless all labels are token ids."""
    ids = payload["ids"]
    if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= vocabulary):
        raise RefusedError(Reason.MALFORMED, f"{what}: holds labels outside 0 to {vocabulary - 1}")
