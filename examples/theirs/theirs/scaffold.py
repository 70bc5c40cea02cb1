"""Local steps corrected by control variates, and the server that keeps theirs: SCAFFOLD (arXiv 1910.06378).

    client k:  y <- y - eta (g_k(y) - c_k + c) from x on, and then  c_k <- mean of its g_k over the round's steps
    server:    c <- c + sum over those that took part of (c_k - what it was) / N,   x <- x + rate (mean y - x)

The server sends c down beside x. Nothing else goes up, as c_k - what it was is (x - y) / (sum of eta) - c. Our
reconstruction: the means over clients are weighted as the updates are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Gt

from wavetune.federation.mixing import Mixing
from wavetune.federation.optimise import Going, Moments, Optimiser

if TYPE_CHECKING:
    from torch import Tensor

    from wavetune.federation.codecs import Tensors
    from wavetune.federation.updates import RoundEnd


@dataclass(frozen=True)
class Corrected(Optimiser):
    """Gradient descent with the difference of the server's variate and the client's own; of what is shared."""

    moments = ("own", "mean")
    told = ("c",)
    learning_rate: Annotated[float, Gt(0)] = 0.1

    def advance(self, value: Tensor, grad: Tensor, moments: Moments, going: Going) -> tuple[Tensor, Moments]:
        """The values after a step, the client's variate, and the mean gradient of the round so far."""
        own, mean, c = moments.values()
        if going.first:
            own, mean = mean, 0 * mean  # of the last round that it took part in
        mean = mean + (grad - mean) / (going.done + 1)
        drift = own - c if going.shared else 0.0
        return value - going.rate * (grad - drift), {"own": own, "mean": mean, "c": c}


@dataclass(frozen=True)
class Variates(Mixing):
    """What the server held, moved by `rate` times the way to the mean of the clients; and c, which goes down."""

    beside = ("c",)
    rate: Annotated[float, Gt(0)] = 1.0

    def step(self, mixture: Tensors, held: Tensors, state: Tensors, context: RoundEnd) -> tuple[Tensors, Tensors]:
        """What the server goes on with, and c."""
        changes, found, kept = [(u, u.change) for u in context.updates], {}, dict(state)
        share, total = len(changes) / context.clients, sum(u.weight for u, _ in changes)
        for name, t in mixture.items():
            slope = sum(u.weight / total / sum(u.rates) * change[name] for u, change in changes)
            c = state.get(f"c.{name}", 0 * t)
            kept[f"c.{name}"] = c - share * (slope + c)
            found[name] = held[name] + self.rate * (t - held[name])
        return found, kept
