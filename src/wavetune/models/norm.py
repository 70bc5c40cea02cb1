"""Norms of rows, as they are written down."""

from typing import NamedTuple

import torch
from torch import Tensor


class Norm(NamedTuple):
    """`weight (x - m) / sqrt(mean((x - m)^2) + epsilon) + shift`; m is the row's mean if `centred`, and else 0."""

    weight: Tensor
    shift: Tensor
    epsilon: float
    centred: bool

    @property
    def plain(self) -> bool:
        """Whether it is a root-mean-square norm."""
        return not self.centred and not bool(self.shift.any())


def normed(x: Tensor, norm: Norm) -> Tensor:
    """A norm of rows in PyTorch's own operations."""
    if norm.centred:
        x = x - x.mean(-1, keepdim=True)
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + norm.epsilon) * norm.weight + norm.shift
