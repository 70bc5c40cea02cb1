"""Codecs that change the number format alone: fp64 (exact), fp32 (exact in all runs but fp64 ones) and bf16."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from wavetune.federation.codecs.codec import Chain, Codec, Payload
from wavetune.federation.messages import Field

if TYPE_CHECKING:
    from torch import Tensor


class InFormat(Codec):
    """Numbers in another format, all of them."""

    format: ClassVar[str]

    def fields(self, rows: float, width: int) -> dict[str, Field]:
        """The tensors that are sent for a matrix of so many rows."""
        return {"values": Field((rows, width), self.format)}

    def encode(self, x: Tensor) -> Payload:
        """What is sent for `x [rows, width]`."""
        import torch

        return {"values": x.detach().to(getattr(torch, self.format))}

    def decode(self, payload: Payload) -> Tensor:
        """What is received, `[rows, width]`."""
        return payload["values"]


@dataclass(frozen=True)
class Fp64(InFormat):
    """64 bits a value: nothing is lost, also where a run computes in fp64."""

    removes = ()
    format = "float64"


@dataclass(frozen=True)
class Fp32(InFormat):
    """32 bits a value: nothing is lost of what is computed in fp32."""

    removes = ()
    format = "float32"


@dataclass(frozen=True)
class Bf16(InFormat):
    """16 bits a value: 8 bits of exponent as in fp32, 8 significant bits (relative error at most 2^-8)."""

    format = "bfloat16"

    def decode(self, payload: Payload) -> Tensor:
        """What is received, fp32 `[rows, width]`."""
        return payload["values"].float()


def way_back(chain: Chain) -> Chain:
    """How the broadcast is written: as updates are, without what is meant for changes alone; else in fp32."""
    return tuple(one for one in chain if one.both_ways) or (Fp32(),)
