"""A server that goes only part of the way to the mean of the updates, and some of the way that it went before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt, Le, Lt

from wavetune.federation.mixing import Mixing

if TYPE_CHECKING:
    from wavetune.federation.codecs import Context, Tensors


@dataclass(frozen=True)
class Damped(Mixing):
    """What the server held, moved by `rate` times the way to the mean of the updates plus `momentum` of its last move.

    A rate of 1 without momentum is plain averaging. Source: FedAvgM (arXiv 1909.06335).
    """

    rate: Annotated[float, Gt(0), Le(1)] = 0.7
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.0

    def step(self, mixture: Tensors, held: Tensors, state: Tensors, context: Context) -> tuple[Tensors, Tensors]:
        """What the server goes on with, and its move."""
        moves = {
            name: self.rate * (t - held[name]) + self.momentum * state.get(name, t - t) for name, t in mixture.items()
        }
        return {name: held[name] + move for name, move in moves.items()}, {**state, **moves}
