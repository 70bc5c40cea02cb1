"""Bottleneck adapters with a client axis, on the output of the linear maps that end attention and feed-forward.

`y + gelu(y A_s) B_s` (Houlsby et al. 2019, without biases; A is W_down, B is W_up): each token with its own slot s, as
for LoRA, which may act inside the same linear map.

Legend: S slots, N tokens, D width, M bottleneck width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from wavetune.costs.bottleneck import Place
from wavetune.errors import ModelError
from wavetune.models.lora import ActiveAdapters, AdapterSite, FrozenLinear, Segment


def last_map(block: nn.Module, place: Place, width: int) -> str:
    """Path in a block of the linear map that ends attention or feed-forward: the last one that yields `width` values,
    inside or outside of what is named after attention. Raises ModelError if there is none.
    """
    paths = dict(block.named_modules())
    ends = [
        path
        for path, module in paths.items()
        if ("att" in path.lower()) == (place == "attention") and _yields(module) == width
    ]
    mixture = place == "feed_forward" and any("experts" in path.split(".") for path in paths)
    if not ends or mixture:
        raise ModelError(
            f"a {type(block).__name__} has no single linear map for a bottleneck after {place.replace('_', '-')}; "
            "choose the other of method.bottleneck.places, or LoRA alone"
        )
    return ends[-1]


def _yields(module: nn.Module) -> int | None:
    if isinstance(module, Conv1D):
        return module.weight.shape[1]
    return module.weight.shape[0] if isinstance(module, nn.Linear | FrozenLinear) else None


class StackedBottleneck:
    """Forward hook of a linear map: the active bank's bottleneck on what it yields."""

    def __init__(self, site: AdapterSite, active: ActiveAdapters) -> None:
        self.site = site
        self.active = active

    def __call__(self, _module: nn.Module, _args: object, y: Tensor) -> Tensor:
        """`y + gelu(y A_s) B_s` of `[..., D]`."""
        stacks = self.active.stacks(self.site)
        if stacks is None:
            return y
        segments, local, shared = stacks
        return _Bottleneck.apply(y.reshape(-1, y.shape[-1]), segments, *local, *shared).view_as(y)


class _Bottleneck(torch.autograd.Function):
    """Products segment by segment, all else at once; saves its input and the M values before the GELU."""

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, segments: tuple[Segment, ...], local_A: Any, local_B: Any, shared_A: Any, shared_B: Any
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
