"""Random sparsification: a share of every matrix at places that both ends draw from one key, so that none are sent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Gt, Le

from wavetune.federation.codecs.codec import Context, Tensors, Transform
from wavetune.federation.facts import COMMON_START, NUMBERS_ALONE, VALUES_SENT
from wavetune.federation.messages import Field, Spec
from wavetune.seeds import torch_stream

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class RandomSparse(Transform):
    """`keep` of the values of every matrix (one at least), drawn anew for every client and round, scaled by 1 / keep.

    What the server reads is the change in expectation; its variance is (1 - keep) / keep times the change's square. The
    places depend on the run's seed alone, so privacy may be added to what is left. Source: arXiv 2304.04164.
    """

    removes = (VALUES_SENT,)
    needs = (COMMON_START, NUMBERS_ALONE)
    of_changes = True
    public = True
    keep: Annotated[float, Gt(0), Le(1)] = 0.25

    def kept(self, size: float) -> int:
        """Values of so many that are sent.

        >>> RandomSparse(keep=0.25).kept(10)
        3
        """
        return min(int(size), max(1, math.ceil(self.keep * size)))

    def spec(self, spec: Spec) -> dict[str, Field]:
        """One row of values for every matrix."""
        return {name: Field((1, self.kept(math.prod(field.shape))), field.format) for name, field in spec.items()}

    def send(self, x: Tensors, state: Tensors, context: Context) -> tuple[Tensors, Tensors]:
        """The values at this round's places."""
        places = self._places({name: t.numel() for name, t in x.items()}, context)
        return {name: t.flatten()[places[name].to(t.device)][None] for name, t in x.items()}, state

    def receive(self, x: Tensors, spec: Spec, context: Context) -> Tensors:
        """The values at their places, scaled up; zero elsewhere."""
        shapes = {name: [int(size) for size in field.shape] for name, field in spec.items()}
        places, found = self._places({name: math.prod(shape) for name, shape in shapes.items()}, context), Tensors()
        for name, shape in shapes.items():
            values = x[name].flatten()
            whole = values.new_zeros(math.prod(shape))
            whole[places[name].to(values.device)] = values * (len(whole) / len(values)) if len(values) else values
            found[name] = whole.reshape(shape)
        return found

    def _places(self, sizes: dict[str, int], context: Context) -> dict[str, Tensor]:
        import torch

        generator = torch_stream(context.seed, "random sparsification", context.round, context.client)
        drawn = {name: torch.randperm(size, generator=generator) for name, size in sorted(sizes.items())}
        return {name: order[: self.kept(len(order))].sort().values for name, order in drawn.items()}
