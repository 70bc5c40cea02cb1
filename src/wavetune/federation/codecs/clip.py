"""Clipping: a client's whole update is scaled down to a largest norm."""

import math
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le

from wavetune.federation.codecs.codec import Context, Tensors, Transform
from wavetune.federation.facts import COMMON_START, NUMBERS_ALONE, VALUES_SENT


@dataclass(frozen=True)
class Clip(Transform):
    """The change of all adapters together is scaled down to the L2 norm `norm`.

    A change that is not finite counts as none. The sender remembers the norm that its latest change had.
    """

    removes = (VALUES_SENT,)
    needs = (COMMON_START, NUMBERS_ALONE)
    of_changes = True
    norm: Annotated[float, Ge(1e-12), Le(1e12)] = 1.0

    def send(self, x: Tensors, state: Tensors, context: Context) -> tuple[Tensors, Tensors]:
        """The change within the norm."""
        import torch

        norm = math.sqrt(sum(float(t.double().square().sum()) for t in x.values()))
        remembered = {"norm": torch.tensor(norm, dtype=torch.float64)}
        if math.isfinite(norm) and norm <= self.norm:
            return x, remembered
        scale = self.norm / norm if math.isfinite(norm) else 0.0
        return {name: torch.nan_to_num(t) * scale for name, t in x.items()}, remembered
