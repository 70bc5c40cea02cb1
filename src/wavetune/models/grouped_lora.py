"""LoRA of all clients of a pass in a few grouped products instead of one small product for each client.

An accelerator starts each product at a cost that outweighs the product of one client's rank; PyTorch's grouped products
take the tokens of all clients and offsets between them. They read the adapters in the precision of the frozen weights,
and sum in fp32.

Legend: S segments, N tokens, R rank rounded up to what grouped products take.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_MULTIPLE = 8  # of every width: 16 bytes in bf16
Segments = Sequence[tuple[bool, int, int, int]]  # tokens of a slot of the local stack, or of the shared one: from, to


def can_group(x: Tensor, weight: Tensor) -> bool:
    """Whether grouped products take these, and pay: bf16 on an accelerator."""
    known = hasattr(F, "grouped_mm")  # since PyTorch 2.10
    return known and x.is_cuda and weight.dtype == torch.bfloat16 and not any(n % _MULTIPLE for n in weight.shape)


def grouped_lora(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: float,
    segments: Segments,
    offsets_S: Tensor,
    local: Sequence[Any],
    shared: Sequence[Any],
) -> Tensor:
    """`x W^T + b + scale (x A_s) B_s` of `[N, in]`, each token with its segment's slot; fp32, or the weight's fp64.

    `offsets_S` (int32) is where each segment ends; `local` and `shared` are the stacks A and B, or None twice.
    """
    return _GroupedLora.apply(x, weight, bias, scale, segments, offsets_S, *local, *shared)


class _GroupedLora(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, scale: float, segments: Segments, offsets_S: Tensor,
        local_A: Any, local_B: Any, shared_A: Any, shared_B: Any,
    ) -> Tensor:  # fmt: skip
        low = x.to(weight.dtype)
        A, B = (_of_segments(segments, *pair).to(low.dtype) for pair in ((local_A, shared_A), (local_B, shared_B)))
        spare = -A.shape[2] % _MULTIPLE
        A, B = F.pad(A, (0, spare)), F.pad(B, (0, 0, 0, spare))
        h = F.grouped_mm(low, A, offs=offsets_S)
        y = F.linear(low, weight, bias).to((shared_A if local_A is None else local_A).dtype)
        y += scale * F.grouped_mm(h, B, offs=offsets_S)
        ctx.save_for_backward(low, weight, A, B, h, offsets_S, local_A, local_B, shared_A, shared_B)
        ctx.scale, ctx.segments, ctx.in_dtype = scale, segments, x.dtype
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, A, B, h, offsets_S, local_A, local_B, shared_A, shared_B = ctx.saved_tensors
        gy = grads[0].to(x.dtype).contiguous()
        gh = F.grouped_mm(gy, B.transpose(1, 2), offs=offsets_S) * ctx.scale
        gx = None
        if ctx.needs_input_grad[0]:
            gx = (gy @ weight).to(ctx.in_dtype)
            gx += F.grouped_mm(gh, A.transpose(1, 2), offs=offsets_S)
        g_local, g_shared = [None, None], [None, None]
        for i, trained, left, right in ((0, (6, 8), x, gh), (1, (7, 9), h * ctx.scale, gy)):
            if any(ctx.needs_input_grad[n] for n in trained):
                gradient = F.grouped_mm(left.t(), right, offs=offsets_S)
                g_local[i] = _to_stack(ctx.segments, True, gradient, (local_A, local_B)[i])
                g_shared[i] = _to_stack(ctx.segments, False, gradient, (shared_A, shared_B)[i])
        return gx, None, None, None, None, None, *g_local, *g_shared


def _of_segments(segments: Segments, local: Any, shared: Any) -> Tensor:
    """The factor of each segment, `[S, ...]`."""
    return torch.stack([(local if own else shared)[slot] for own, slot, _, _ in segments])


def _to_stack(segments: Segments, local: bool, gradient: Tensor, stack: Any) -> Any:
    """Gradients `[S, ...]` of segments added up in the slots of the local or the shared stack."""
    if stack is None:
        return None
    own = torch.tensor([[i, slot] for i, (kind, slot, _, _) in enumerate(segments) if kind == local]).to(stack.device)
    used = gradient[own[:, 0], : stack.shape[1], : stack.shape[2]]
    return torch.zeros_like(stack).index_add_(0, own[:, 1], used.to(stack.dtype))
