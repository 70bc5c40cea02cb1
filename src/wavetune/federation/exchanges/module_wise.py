"""Module-wise rounds: a block whose adapters hardly move any more is neither trained nor sent until it is due again.

After a round, of every block l that it was about,

    u_l = ||X_l - X_l'||,  r_l = u_l / max of u_l so far,  e_l <- (e_l + r_l) / 2

X the shared adapters of the block, X' those of the round before; e begins with the first r. A block is slow until e_l
was below a threshold for some rounds on end. Source: reconstruction of arXiv 2507.05861, whose measure and switching
rule are not public. Ignores: that a block which moves little may have a small gradient and not be done.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (the stubs of torch leave parts of their types open)

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt

from wavetune.federation.exchanges.exchange import SERVER, Held
from wavetune.federation.exchanges.star import Star
from wavetune.federation.facts import ADAPTERS, WHOLE_MODEL
from wavetune.federation.messages import EVERYTHING, Agenda
from wavetune.federation.updates import Node

if TYPE_CHECKING:
    from torch import Tensor

    from wavetune.costs.adapter import AdapterSite
    from wavetune.federation.codecs import Tensors


@dataclass(frozen=True)
class ModuleWise(Star):
    """A star whose rounds, after the first `full_rounds`, are about the slow blocks alone.

    A block has converged when it moved by less than `threshold` of its fastest for `patience` rounds; which blocks are
    slow is settled every `period` rounds. Every `full_every` rounds (None: never) all blocks have their turn. Where all
    have converged, the one that moves most is slow.
    """

    needs = (ADAPTERS, WHOLE_MODEL)
    full_rounds: Annotated[int, Ge(1)] = 2
    threshold: Annotated[float, Ge(0)] = 0.3
    patience: Annotated[int, Ge(1)] = 2
    period: Annotated[int, Ge(1)] = 2
    full_every: Annotated[int, Gt(1)] | None = 10

    def agenda(self, state: Tensors, num_layers: int, round_index: int) -> Agenda:
        """The slow blocks; all of them at first, and in every so many rounds."""
        full = self.full_every is not None and (round_index + 1) % self.full_every == 0
        if round_index < self.full_rounds or full or "slow_L" not in state:
            return EVERYTHING
        slow = tuple(layer for layer, slow in enumerate(state["slow_L"].tolist()) if slow)
        return EVERYTHING if len(slow) == num_layers else Agenda(slow)

    def settle(
        self, state: Tensors, sites: Sequence[AdapterSite], before: Mapping[Node, Held], after: Mapping[Node, Held]
    ) -> Tensors:
        """How fast each block moves, and which are slow. State: per block, and the number of rounds."""
        import torch

        if not sites:  # nothing is shared
            return state
        num_layers = 1 + max(site.layer for site in sites)
        square_L = torch.zeros(num_layers, dtype=torch.float64)
        start, end = before[SERVER].tensors, after[SERVER].tensors
        for site in sites:
            for matrix in site.matrices:
                name = f"{site.name}.{matrix.name}"
                square_L[site.layer] += (end[name].double() - start[name].double()).square().sum().cpu()
        return self._remembered(state, square_L.sqrt())

    def _remembered(self, state: Tensors, moved_L: Tensor) -> Tensors:
        """The state after a round in which each block moved so much; 0 are those that the round was not about."""
        import torch

        zero_L = torch.zeros_like(moved_L)
        rounds, on_L = int(state.get("rounds", 0)) + 1, moved_L > 0
        fastest_L = torch.maximum(state.get("fastest_L", zero_L).to(moved_L), moved_L)
        share_L = moved_L / fastest_L.where(fastest_L > 0, 1)
        old_L = state["share_L"].to(moved_L) if "share_L" in state else share_L
        share_L = torch.where(on_L, (old_L + share_L) / 2, old_L)
        below_L = state.get("below_L", zero_L).to(moved_L)
        below_L = torch.where(on_L, (below_L + 1) * (share_L < self.threshold), below_L)
        slow_L = state.get("slow_L", torch.ones_like(on_L))
        if rounds >= self.full_rounds and (rounds - self.full_rounds) % self.period == 0:
            slow_L = (below_L < self.patience) & (fastest_L > 0)
            if not slow_L.any():
                slow_L[int(torch.argmax(share_L))] = True
        found = {"fastest_L": fastest_L, "share_L": share_L, "below_L": below_L, "slow_L": slow_L}
        return {**found, "rounds": torch.tensor(rounds)}
