"""Bottlenecks with a client axis: `y + gelu(y A_s) B_s`, each token with its own slot s; A is W_down, B is W_up.

Legend: S slots, N tokens, D width, M bottleneck width.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wavetune.models.adapter import Segment, Stacks


def bottleneck(y: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """`y + gelu(y A) B` of `[..., D]`."""
    return y + F.gelu(y @ A) @ B


def stacked_bottleneck(y: Tensor, segments: Sequence[Segment], local: Stacks | None, shared: Stacks | None) -> Tensor:
    """The same of `[N, D]`, each token with its segment's slot."""
    factors = [None if stacks is None else stacks[name] for stacks in (local, shared) for name in "AB"]
    return _Bottleneck.apply(y, segments, *factors)


class _Bottleneck(torch.autograd.Function):
    """Products segment by segment, all else at once; saves its input and the M values before the GELU."""

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, segments: Sequence[Segment], local_A: Any, local_B: Any, shared_A: Any, shared_B: Any
    ) -> Tensor:
        width = next(A.shape[-1] for A in (local_A, shared_A) if A is not None)
        out, narrow = torch.empty_like(y), y.new_empty(y.shape[0], width)
        for local, slot, start, stop in segments:
            A = local_A if local else shared_A
            torch.mm(y[start:stop], A[slot], out=narrow[start:stop])
        hidden = F.gelu(narrow)
        for local, slot, start, stop in segments:
            B = local_B if local else shared_B
            torch.addmm(y[start:stop], hidden[start:stop], B[slot], out=out[start:stop])
        trains_a = ctx.needs_input_grad[2] or ctx.needs_input_grad[4]
        ctx.save_for_backward(y if trains_a else None, narrow, local_A, local_B, shared_A, shared_B)
        ctx.segments = segments
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        y, narrow, *stacks = ctx.saved_tensors
        gradients: list[Any] = [
            torch.zeros_like(p) if ctx.needs_input_grad[2 + i] else None for i, p in enumerate(stacks)
        ]
        g = grads[0]
        gy = torch.empty_like(g) if ctx.needs_input_grad[0] else None
        hidden = F.gelu(narrow)
        g_narrow = torch.empty_like(narrow)
        for local, slot, start, stop in ctx.segments:
            B, gB = (pair[1 if local else 3] for pair in (stacks, gradients))
            torch.mm(g[start:stop], B[slot].t(), out=g_narrow[start:stop])
            if gB is not None:
                gB[slot].addmm_(hidden[start:stop].t(), g[start:stop])
        g_narrow = torch.ops.aten.gelu_backward(g_narrow, narrow)
        for local, slot, start, stop in ctx.segments:
            A, gA = (pair[0 if local else 2] for pair in (stacks, gradients))
            if gA is not None:
                gA[slot].addmm_(y[start:stop].t(), g_narrow[start:stop])
            if gy is not None:
                torch.addmm(g[start:stop], g_narrow[start:stop], A[slot].t(), out=gy[start:stop])
        return gy, None, *gradients
