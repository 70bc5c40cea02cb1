"""A server that goes only part of the way to the mean of the updates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Gt, Le

from wavetune.federation.mixing import AverageFactors, Mixing

if TYPE_CHECKING:
    from wavetune.costs.adapter import AdapterSite
    from wavetune.federation.codecs import Tensors
    from wavetune.federation.updates import Update


@dataclass(frozen=True)
class Damped(Mixing):
    """The last broadcast, moved by `rate` times the way to the mean of the updates; a rate of 1 is plain averaging."""

    rate: Annotated[float, Gt(0), Le(1)] = 0.7

    def combine(self, updates: Sequence[Update], sites: Sequence[AdapterSite]) -> tuple[Tensors, float]:
        """Adapters by name, and the error of the mean as a mean of products."""
        mean, error = AverageFactors().combine(updates, sites)
        start = {name: t for update in updates for name, t in update.start.items()}
        return {name: start[name] + self.rate * (t - start[name]) for name, t in mean.items()}, error
