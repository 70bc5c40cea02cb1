"""Gradient descent whose steps are scaled value by value as all clients' gradients ask for: Local AdaAlter.

    client k:  y <- y - eta g / sqrt(b + t e^2) in the t-th step of the round from x on, and  s_k <- s_k + g^2
    server:    x <- mean y,   b <- mean s_k, from which every s_k goes on

A client tells s_k beside what it trained, and is told b beside x (arXiv 1911.09030). Our reconstruction: the means over
clients are weighted as the updates are, and adapters that are not shared go on from sums of their own.
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
class Scaled(Optimiser):
    """Gradient descent over the root of a sum of squares, which stays as it is told while a round lasts."""

    moments = ("s",)
    told = ("b",)
    tells = ("s",)
    learning_rate: Annotated[float, Gt(0)] = 0.01
    epsilon: Annotated[float, Gt(0)] = 0.01

    def advance(self, value: Tensor, grad: Tensor, moments: Moments, going: Going) -> tuple[Tensor, Moments]:
        """The values after a step, the client's sum of squares, and the one that all began with."""
        s, b = moments.values()
        if going.first:
            s = b = b if going.shared else s
        root = (b + (going.done + 1) * self.epsilon**2).sqrt()
        return value - going.rate * grad / root, {"s": s + grad**2, "b": b}


@dataclass(frozen=True)
class Scales(Mixing):
    """The mean of the updates, and of the sums of squares of those clients that told theirs; b, which goes down."""

    beside = ("b",)
    hears = ("s",)

    def step(self, mixture: Tensors, held: Tensors, state: Tensors, context: RoundEnd) -> tuple[Tensors, Tensors]:
        """The mixture, and b."""
        kept = dict(state)
        for name, t in mixture.items():
            told = [u for u in context.updates if f"s.{name}" in u.beside]
            total = sum((u.weight * u.beside[f"s.{name}"] for u in told), 0 * t)
            kept[f"b.{name}"] = total / sum(u.weight for u in told) if told else state.get(f"b.{name}", total)
        return mixture, kept
