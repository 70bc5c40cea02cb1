"""Codecs that change the number format alone: fp32 (exact) and bf16."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Payload = dict[str, "Tensor"]


@dataclass(frozen=True)
class Fp32:
    """32 bits a value: nothing is lost."""

    kind: Literal["fp32"] = field(default="fp32", kw_only=True)

    def bits(self, rows: float, width: int) -> float:
        """Bits of a message of `rows` vectors of `width` values."""
        return 32 * rows * width

    def encode(self, x: Tensor) -> Payload:
        """What is sent for `x [rows, width]`."""
        return {"values": x.detach().float()}

    def decode(self, payload: Payload) -> Tensor:
        """What is received, fp32 `[rows, width]`."""
        return payload["values"]


@dataclass(frozen=True)
class Bf16:
    """16 bits a value: 8 bits of exponent as in fp32, 8 significant bits (relative error at most 2^-8)."""

    kind: Literal["bf16"] = field(default="bf16", kw_only=True)

    def bits(self, rows: float, width: int) -> float:
        """Bits of a message of `rows` vectors of `width` values."""
        return 16 * rows * width

    def encode(self, x: Tensor) -> Payload:
        """What is sent for `x [rows, width]`."""
        return {"values": x.detach().bfloat16()}

    def decode(self, payload: Payload) -> Tensor:
        """What is received, fp32 `[rows, width]`."""
        return payload["values"].float()
