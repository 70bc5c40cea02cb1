"""Online scores: an update counts by how well it points where all together point.

    lambda_k = cos(d_k, sum_j w_j d_j),   x <- x + sum_k w_k (chi + lambda_k) / (chi + 1) d_k

for changes d_k and weights w_k. The weights no longer sum to 1: the step shrinks by the mean score, as in the source,
arXiv 2408.05886 (a reconstruction). Ignores: that cosines of LoRA factors depend on their basis.
"""

import math
from dataclasses import dataclass, replace
from typing import Annotated

from annotated_types import Ge

from wavetune.federation.codecs.codec import Context, Tensors
from wavetune.federation.filters.filter import Filter
from wavetune.federation.updates import Inbox, Update, mean_change


@dataclass(frozen=True)
class Scores(Filter):
    """Every change is scaled by its score (chi + cosine to the mean change) / (chi + 1); a large `chi` scores all 1."""

    chi: Annotated[float, Ge(1)] = 1.0

    def take(self, inbox: Inbox, state: Tensors, context: Context) -> tuple[Inbox, Tensors]:
        """The updates by their scores."""
        together = mean_change(inbox.updates)
        return replace(inbox, updates=tuple(self._scored(u, together) for u in inbox.updates)), state

    def _scored(self, update: Update, together: Tensors) -> Update:
        change = update.change
        score = self.score(change, together)
        return update.moved({name: score * t for name, t in change.items()})

    def score(self, change: Tensors, together: Tensors) -> float:
        """A change's score: 1 where it points as the mean, (chi - 1) / (chi + 1) where it points against it."""
        common = {name: together[name] for name in change}
        size = math.sqrt(_inner(change, change) * _inner(common, common))
        return (self.chi + (_inner(change, common) / size if size else 1.0)) / (self.chi + 1)


def _inner(one: Tensors, other: Tensors) -> float:
    return sum(float((t.double() * other[name].double()).sum()) for name, t in one.items())
