"""Gaussian noise on a client's update."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from annotated_types import Ge, Le

from wavetune.federation.codecs.codec import Context, Tensors, Transform
from wavetune.federation.facts import COMMON_START, NUMBERS_ALONE, VALUES_SENT
from wavetune.seeds import torch_stream

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Noise(Transform):
    """Independent noise of standard deviation `std` on every value that is sent.

    `source` "seeded" is the same in every run of a seed, which is for research: whoever knows the seed can take it out
    again. "secure" draws from the operating system.
    """

    removes = (VALUES_SENT,)
    needs = (COMMON_START, NUMBERS_ALONE)
    of_changes = True
    std: Annotated[float, Ge(0), Le(1e6)] = 0.0
    source: Literal["seeded", "secure"] = "seeded"

    def send(self, x: Tensors, state: Tensors, context: Context) -> tuple[Tensors, Tensors]:
        """The values with noise."""
        if not self.std:
            return x, state
        generator = torch_stream(context.seed, "privacy noise", context.round, context.client)
        return {name: t + (self.std * self._drawn(t.shape, generator)).to(t) for name, t in x.items()}, state

    def _drawn(self, shape: Sequence[int], generator: object) -> Tensor:
        import torch

        assert isinstance(generator, torch.Generator)
        return torch.randn(shape, generator=generator) if self.source == "seeded" else secure_normal(shape)


def secure_normal(shape: Sequence[int]) -> Tensor:
    """Standard normal values from the operating system's secret randomness, fp32.

    Four draws are added up for each, which hides the pattern of floats that a single one would show (Holohan and
    Braghin, 2021).
    """
    import torch

    count = math.prod(shape)
    bits = np.frombuffer(os.urandom(8 * 8 * count), np.uint64).reshape(8, count) >> np.uint64(11)
    uniform = (bits + 0.5) * 2.0**-53  # in (0, 1)
    radius, angle = np.sqrt(-2 * np.log(uniform[:4])), 2 * np.pi * uniform[4:]
    return torch.as_tensor((radius * np.cos(angle)).sum(0) / 2).float().reshape(tuple(shape))
