"""The cut: where the client's blocks end and the server's begin. Identity in value; it meters, encodes and carries.

Forward, activations cross; backward, gradients cross the other way. The loss of a split step is sum_k w_k F_k with
client weights w_k, so what the server computes for client k's activations is w_k times the gradient of F_k. Each
crossing puts that right: towards the client the gradient is divided by w_k before it is sent, towards the server
multiplied after it arrived, so that every client trains on its own mean loss and the server on the weighted sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wavetune.data.batching import RaggedBatch
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


class Layout(NamedTuple):
    """How a client's tokens that cross are rows, and at which of them labels are predicted; labels may stay with it."""

    lengths: tuple[int, ...]
    label_positions: tuple[int, ...]

    @classmethod
    def of(cls, batch: RaggedBatch, position: int, labels_stay: bool) -> Layout:
        """That of the client at a position of a batch."""
        own, before = batch.client_of_sample == position, batch.client_of_sample < position
        places = batch.label_index[own[batch.sample_of_label]] - batch.lengths[before].sum()
        return cls(tuple(batch.lengths[own].tolist()), () if labels_stay else tuple(places.tolist()))


class LossSum(NamedTuple):
    """Summed loss of a client's labelled positions in nats, and how many they are."""

    nll: float
    labelled: int


@dataclass(frozen=True)
class CutLink:
    """What a cut does to values: codecs for activations (forward) and gradients (backward), through one door."""

    door: Door
    activation_codec: Codec
    gradient_codec: Codec

    def cross(self, hidden_ND: Tensor, crossings: Sequence[Crossing]) -> Tensor:
        """Hidden states `[N, D]` after these crossings; tokens that do not cross pass untouched.

        Gradients cross back whatever is trained in front of the cut.
        """
        if crossings and not hidden_ND.requires_grad:
            hidden_ND = hidden_ND.detach().requires_grad_()
        return _Cross.apply(hidden_ND, self, tuple(crossings)) if crossings else hidden_ND  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


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
