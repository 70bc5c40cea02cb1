"""Clients that make fewer local steps than others, and updates that count alike: FedNova (arXiv 2007.07481).

    x <- x + tau sum_k p_k (y_k - x) / tau_k,   tau = sum_k p_k tau_k

over the clients that took part, p_k their share of the weights and tau_k the sum of the learning rates of k's steps.
Source: equation 9, for clients that descend without momentum (there tau_k is the number of steps, at one rate).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from annotated_types import Gt

from wavetune.federation.filters.filter import Filter
from wavetune.federation.topology import Federated, Topology

if TYPE_CHECKING:
    from wavetune.federation.codecs import Context, Tensors
    from wavetune.federation.updates import Inbox


@dataclass(frozen=True)
class Passes(Topology):
    """Every client makes the steps of so many `passes` over its own rows in a round, but at most run.local_steps."""

    removes = Federated.removes
    passes: Annotated[float, Gt(0)] = 1.0

    def steps_K(self, samples_K: Sequence[int], batch_size_K: Sequence[int], local_steps: int) -> Sequence[int]:
        """Local steps that each client makes in a round."""
        pairs = zip(samples_K, batch_size_K, strict=True)
        return [min(math.ceil(self.passes * n / size), local_steps) for n, size in pairs]


@dataclass(frozen=True)
class Normalised(Filter):
    """Changes as they would be if every client's steps had come to the mean over clients of what they came to."""

    def take(self, inbox: Inbox, state: Tensors, context: Context) -> tuple[Inbox, Tensors]:
        """The updates with changes of other lengths."""
        paths = [sum(u.rates) for u in inbox.updates]
        total = sum(u.weight for u in inbox.updates)
        mean = sum(u.weight / total * path for u, path in zip(inbox.updates, paths, strict=True))
        updates = [
            u.moved({name: mean / path * t for name, t in u.change.items()})
            for u, path in zip(inbox.updates, paths, strict=True)
        ]
        return replace(inbox, updates=tuple(updates)), state
