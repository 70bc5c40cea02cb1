"""Spatial and temporal stand-ins for lost updates.

A missing change is put at theta times the mean of those that arrived, plus phi^age times the client's last one:

    u_k = theta mean_j u_j + phi^age u_k_last

theta 1 and phi 0 is skipping it, theta and phi 0 counts it as no change. Fitted, they are the least squares of the
updates that did arrive, each set against the mean of the others and its client's last one. Source: reconstruction of
STFL, arXiv 2110.14578. Ignores: that a reused change may no longer fit where the adapters are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from annotated_types import Ge, Gt, Le

from wavetune.federation.codecs.codec import Context, Tensors
from wavetune.federation.facts import INDIVIDUAL
from wavetune.federation.filters.filter import Fill
from wavetune.federation.updates import Inbox, Update, mean_change, summed_changes
from wavetune.units import Array

if TYPE_CHECKING:
    from torch import Tensor

_FEW = 3  # samples, below which the given factors are used


@dataclass(frozen=True)
class Blend(Fill):
    """A missing change is blended of the mean of the others and the client's own last one, up to `max_age` rounds old.

    With `fit` "lmmse" theta and phi are fitted to what arrives, moments forgotten at the rate `forgetting`; the given
    ones serve until there are three samples.
    """

    needs = (INDIVIDUAL,)
    theta: Annotated[float, Ge(-1000), Le(1000)] = 0.5
    phi: Annotated[float, Ge(-1000), Le(1000)] = 0.5
    fit: Literal["fixed", "lmmse"] = "lmmse"
    forgetting: Annotated[float, Gt(0), Le(1)] = 0.3
    max_age: Annotated[int, Ge(1)] = 5

    def take(self, inbox: Inbox, state: Tensors, context: Context) -> tuple[Inbox, Tensors]:
        """Fill gaps with blends, and remember what arrived."""
        import torch

        state = self._observed(inbox.updates, state) if self.fit == "lmmse" else dict(state)
        theta, phi = self.factors(state)
        together = mean_change(inbox.updates)
        filled = list[Update]()
        for u in inbox.missing:
            age = int(state.get(f"{u.sender}|age", torch.tensor(self.max_age))) + 1
            last = phi**age if age <= self.max_age else 0.0
            state |= {f"{u.sender}|age": torch.tensor(age)} if f"{u.sender}|age" in state else {}
            filled.append(u.moved({name: self._blend(u, name, theta, last, together, state) for name in u.start}))
        for u in inbox.updates:
            state |= {f"{u.sender}|age": torch.tensor(0), **{f"{u.sender}|{n}": t for n, t in u.change.items()}}
        return (inbox.with_fill(filled) if inbox.updates or phi else inbox), state

    def factors(self, state: Tensors) -> tuple[float, float]:
        """Theta and phi as they are now."""
        if self.fit == "fixed" or int(state.get("samples", 0)) < _FEW:
            return self.theta, self.phi
        square, product = (state[name].numpy() for name in ("square", "product"))
        theta, phi = np.linalg.lstsq(square, product, rcond=None)[0]
        return float(theta), float(phi)

    def _observed(self, updates: Sequence[Update], state: Tensors) -> Tensors:
        """The second moments with the updates that arrived beside their clients' last ones."""
        import torch

        known = [u for u in updates if all(f"{u.sender}|{name}" in state for name in u.tensors)]
        square, product = np.zeros((2, 2)), np.zeros(2)
        summed, weight = summed_changes(updates)
        for u in known:
            for name, change in u.change.items():
                if (others := weight[name] - u.weight) > 0:
                    rest, last = (summed[name] - u.weight * change) / others, state[f"{u.sender}|{name}"]
                    rows: Array = torch.stack([rest.flatten(), last.flatten().to(change)]).double().numpy()
                    square, product = square + rows @ rows.T, product + rows @ change.flatten().double().numpy()
        if not square.any():
            return dict(state)
        rate = self.forgetting if "samples" in state else 1.0
        new = {"square": torch.as_tensor(square), "product": torch.as_tensor(product)}
        moments = {name: rate * t + (1 - rate) * state.get(name, torch.zeros_like(t)) for name, t in new.items()}
        return {**state, **moments, "samples": torch.tensor(int(state.get("samples", 0)) + len(known))}

    def _blend(self, u: Update, name: str, theta: float, last: float, together: Tensors, state: Tensors) -> Tensor:
        import torch

        zero = torch.zeros_like(u.start[name])
        spatial, temporal = together.get(name, zero), state.get(f"{u.sender}|{name}", zero)
        return theta * spatial + (last * temporal.to(zero) if last else zero)
