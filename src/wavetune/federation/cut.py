"""The cut: where the client's blocks end and the server's begin. Identity in value; it meters, encodes and carries.

Forward, activations cross; backward, gradients cross the other way. The loss of a split step is sum_k w_k F_k with
client weights w_k, so what the server computes for client k's activations is w_k times the gradient of F_k. Each
crossing puts that right: towards the client the gradient is divided by w_k before it is sent, towards the server
multiplied after it arrived, so that every client trains on its own mean loss and the server on the weighted sum.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (the stubs of torch and safetensors leave parts of their types open)

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wavetune.federation.codecs import Codec
from wavetune.federation.door import Door


@dataclass(frozen=True)
class Crossing:
    """One client's tokens `start:stop` crossing a cut in a pass; `weight` is the client's w_k."""

    client: int
    start: int
    stop: int
    weight: float
    to_server: bool


@dataclass(frozen=True)
class CutLink:
    """What a cut does to values: codecs for activations (forward) and gradients (backward), through one door."""

    door: Door
    activation_codec: Codec
    gradient_codec: Codec

    def cross(self, hidden_ND: Tensor, crossings: Sequence[Crossing]) -> Tensor:
        """Hidden states `[N, D]` after these crossings; tokens that do not cross pass untouched."""
        return _Cross.apply(hidden_ND, self, tuple(crossings)) if crossings else hidden_ND


class _Cross(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, link: CutLink, crossings: tuple[Crossing, ...]) -> Tensor:
        ctx.link, ctx.crossings = link, crossings
        out = hidden_ND.clone()
        for c in crossings:
            kind = "activations_up" if c.to_server else "activations_down"
            out[c.start : c.stop] = link.door.send(kind, c.client, out[c.start : c.stop], link.activation_codec)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        link, out = ctx.link, grads[0].clone()
        for c in reversed(ctx.crossings):  # where the server runs no block, the same tokens cross twice
            part = out[c.start : c.stop]
            if c.to_server:
                sent = link.door.send("gradients_down", c.client, part / c.weight, link.gradient_codec)
            else:
                sent = link.door.send("gradients_up", c.client, part, link.gradient_codec) * c.weight
            out[c.start : c.stop] = sent
        return out, None, None
