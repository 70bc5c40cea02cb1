"""The seams of codecs: those of adapters, and among them those that can write activations and gradients too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wavetune.federation.facts import UNROUNDED
from wavetune.parts import Part

if TYPE_CHECKING:
    from torch import Tensor

Payload = dict[str, "Tensor"]


class UpdateCodec(Part):
    """How adapters are written for the air."""

    home = "wavetune.federation.codecs"
    removes = (UNROUNDED,)

    def bits(self, rows: float, width: int) -> float:
        """Bits of a message of `rows` vectors of `width` values."""
        raise NotImplementedError

    def encode(self, x: Tensor) -> Payload:
        """What is sent for `x [rows, width]`."""
        raise NotImplementedError

    def decode(self, payload: Payload) -> Tensor:
        """What is received, `[rows, width]`."""
        raise NotImplementedError


class Codec(UpdateCodec):
    """How adapters, activations or gradients are written for the air."""
