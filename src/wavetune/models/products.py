"""Products with frozen weights, in their precision; in fp32, block by block, where the processor has none in it.

PyTorch multiplies bf16 matrices by plain loops on such processors, slowest where it goes back. Weights of int8 are
whole steps, one step an output channel, and are multiplied in fp32 everywhere.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_BLOCK_VALUES = 1 << 22  # of a weight that are wide at a time
_FEW_ROWS = 16  # which the plain loops multiply sooner than a weight is made wide, such as those of decoding
_STEPS = 127  # of int8, on either side of zero


@cache
def has_bf16_products() -> bool:
    """Whether this processor multiplies bf16 matrices with more than plain loops."""
    supported: Any = torch.ops.mkldnn._is_mkldnn_bf16_supported
    return bool(supported())


def in_steps(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A weight `[out, in]` in whole steps, int8, and each output channel's step in fp32, `[out]`.

    A step is the channel's largest magnitude over 127, so that a value is off by at most half a step.
    """
    whole, step_O = torch.empty_like(weight, dtype=torch.int8), torch.empty(len(weight), device=weight.device)
    for part, block in _blocks(weight):
        largest = block.abs().amax(1)
        step_O[part] = torch.where(largest > 0, largest / _STEPS, 1.0)
        whole[part] = (block / step_O[part, None]).round_().to(torch.int8)
    return whole, step_O


def relative_error(weight: Tensor, whole: Tensor, step_O: Tensor) -> tuple[float, float]:
    """Sums of squares of what a weight in steps differs from it, and of its own values."""
    off, all_of_it = 0.0, 0.0
    for part, block in _blocks(weight):
        off += float((whole[part] * step_O[part, None] - block).square().sum())
        all_of_it += float(block.square().sum())
    return off, all_of_it


def product(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    step_O: Tensor | None = None,
    room: Tensor | None = None,
) -> Tensor:
    """`x W^T + b` with a weight `[out, in]`, of `x` rounded to the weight's precision and in it. Not differentiable.

    A weight in steps is multiplied in fp32. The product may overwrite `room` `[at least as many rows, out]`: new memory
    of a large one costs as much as the product.
    """
    x = x.to(_multiplied_in(weight))
    if room is not None and room.dtype == x.dtype and bias is None and not _is_wide(weight):
        return torch.mm(x, weight.t(), out=room[: len(x)])
    if not _is_wide(weight) or (step_O is None and x.numel() < _FEW_ROWS * weight.shape[1]):
        return F.linear(x, weight, bias)
    wide = x.float()
    parts = [wide @ block.t() for _, block in _blocks(weight)]
    found = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
    if step_O is not None:
        found *= step_O
    return (found if bias is None else found.add_(bias)).to(x.dtype)


def product_back(gradient: Tensor, weight: Tensor, step_O: Tensor | None = None) -> Tensor:
    """Gradient of `x` from that of `x W^T`, rounded to the weight's precision and in it."""
    gradient = gradient.to(_multiplied_in(weight))
    if not _is_wide(weight):
        return gradient @ weight
    wide = gradient.float() if step_O is None else gradient * step_O
    parts = (wide[..., part] @ block for part, block in _blocks(weight))
    found = next(parts)
    for one in parts:
        found += one
    return found.to(gradient.dtype)


def frozen_product(x: Tensor, weight: Tensor, bias: Tensor | None, step_O: Tensor | None = None) -> Tensor:
    """`product`, differentiable in `x`."""
    x = x.to(_multiplied_in(weight))
    return _FrozenProduct.apply(x, weight, bias, step_O) if _is_wide(weight) else F.linear(x, weight, bias)


class _FrozenProduct(torch.autograd.Function):
    """`product` of an `x` in the precision in which it is multiplied."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, step_O: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight, step_O)
        return product(x, weight, bias, step_O)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return product_back(grads[0], *ctx.saved_tensors), None, None, None


def _multiplied_in(weight: Tensor) -> torch.dtype:
    return torch.float32 if weight.dtype == torch.int8 else weight.dtype


def _is_wide(weight: Tensor) -> bool:
    """Whether a weight is made wide, block by block, to be multiplied."""
    slow = weight.dtype == torch.bfloat16 and weight.device.type == "cpu" and not has_bf16_products()
    return slow or weight.dtype == torch.int8


def _blocks(weight: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Rows of a weight, in fp32, as many at a time as stay small."""
    rows = max(1, _BLOCK_VALUES // weight.shape[1])
    for start in range(0, len(weight), rows):
        yield slice(start, start + rows), weight[start : start + rows].float()
