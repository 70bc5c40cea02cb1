"""Local steps whose drift from client to client is corrected, and the server that goes with them: FedDyn (2111.04263).

A client descends F_k(x) - <h_k, x> + alpha/2 |x - x_t|^2 from the broadcast x_t on to x_k, and then h_k <- h_k - alpha
(x_k - x_t). The server: h <- h - alpha (mean x_k - x_t), x_{t+1} = mean x_k - h / alpha. Our reconstruction: all
clients count as taking part, and local steps are plain gradient descent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Gt

from wavetune.federation.mixing import Mixing
from wavetune.federation.optimise import Going, Moments, Optimiser

if TYPE_CHECKING:
    from torch import Tensor

    from wavetune.federation.codecs import Context, Tensors


@dataclass(frozen=True)
class Dynamic(Optimiser):
    """Gradient descent on a client's own loss, with the linear term h_k and `alpha` times the way from the broadcast.

    What a client keeps to itself goes down its gradient alone.
    """

    moments = ("h", "start", "end")
    learning_rate: Annotated[float, Gt(0)] = 0.1
    alpha: Annotated[float, Gt(0)] = 0.1

    def advance(self, value: Tensor, grad: Tensor, moments: Moments, going: Going) -> tuple[Tensor, Moments]:
        """The values after a step; h_k, what the round started from, and what it has come to."""
        h, start, end = moments.values()
        if going.first and going.shared:
            h, start = h - self.alpha * (end - start), value.clone()  # of the last round that it took part in
        drift = self.alpha * (value - start) - h if going.shared else 0.0
        end = value - going.rate * (grad + drift)
        return end, {"h": h, "start": start, "end": end.clone()}


@dataclass(frozen=True)
class DynamicServer(Mixing):
    """The mean of the clients, less h / alpha; `alpha` is that of the clients."""

    alpha: Annotated[float, Gt(0)] = 0.1

    def step(self, mixture: Tensors, held: Tensors, state: Tensors, context: Context) -> tuple[Tensors, Tensors]:
        """What the server goes on with, and h."""
        h = {name: state.get(name, t - t) - self.alpha * (t - held[name]) for name, t in mixture.items()}
        return {name: t - h[name] / self.alpha for name, t in mixture.items()}, {**state, **h}
