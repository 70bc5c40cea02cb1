"""Products with frozen weights, in their precision; in fp32, block by block, where the processor has none in bf16.

There PyTorch multiplies bf16 matrices by plain loops, slowest where it goes back.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_BLOCK_VALUES = 1 << 22  # of a weight that are wide at a time
_FEW_ROWS = 16  # which the plain loops multiply sooner than a weight is made wide, such as those of decoding


@cache
def has_bf16_products() -> bool:
    """Whether this processor multiplies bf16 matrices with more than plain loops."""
    supported: Any = torch.ops.mkldnn._is_mkldnn_bf16_supported
    return bool(supported())


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x W^T + b` with a weight `[out, in]`, of `x` rounded to the weight's precision and in it. Not differentiable."""
    x = x.to(weight.dtype)
    if not _is_slow(weight) or x.numel() < _FEW_ROWS * weight.shape[1]:
        return F.linear(x, weight, bias)
    wide = x.float()
    found = torch.cat([wide @ block.t() for _, block in _blocks(weight)], -1)
    return (found if bias is None else found + bias.float()).to(weight.dtype)


def product_back(gradient: Tensor, weight: Tensor) -> Tensor:
    """Gradient of `x` from that of `x W^T`, rounded to the weight's precision and in it."""
    gradient = gradient.to(weight.dtype)
    if not _is_slow(weight):
        return gradient @ weight
    wide = gradient.float()
    parts = (wide[..., part] @ block for part, block in _blocks(weight))
    found = next(parts)
    for one in parts:
        found += one
    return found.to(weight.dtype)


def frozen_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`product`, differentiable in `x`."""
    x = x.to(weight.dtype)
    return _FrozenProduct.apply(x, weight, bias) if _is_slow(weight) else F.linear(x, weight, bias)


class _FrozenProduct(torch.autograd.Function):
    """`product` of an `x` in the weight's precision."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return product_back(grads[0], ctx.saved_tensors[0]), None, None


def _is_slow(weight: Tensor) -> bool:
    return weight.dtype == torch.bfloat16 and weight.device.type == "cpu" and not has_bf16_products()


def _blocks(weight: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Rows of a weight, in fp32, as many at a time as stay small."""
    rows = max(1, _BLOCK_VALUES // weight.shape[1])
    for start in range(0, len(weight), rows):
        yield slice(start, start + rows), weight[start : start + rows].float()
