"""Clients whose updates point where the others' point count for more."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Lt

from wavetune.federation.filters.filter import Filter

if TYPE_CHECKING:
    from wavetune.federation.codecs import Context, Tensors
    from wavetune.federation.updates import Inbox


@dataclass(frozen=True)
class Scores(Filter):
    """An update's weight times its score chi + cos(d_k, sum_j w_j d_j), d_k what a client changed in the round.

    A client's score is remembered: each round it moves from where it was by 1 - `memory` of the way. A large `chi` is
    plain averaging.
    """

    chi: Annotated[float, Ge(1)] = 1.5
    memory: Annotated[float, Ge(0), Lt(1)] = 0.5

    def take(self, inbox: Inbox, state: Tensors, context: Context) -> tuple[Inbox, Tensors]:
        """The same updates with other weights; the scores by client."""
        import torch  # only here, so that planning stays instant

        if not inbox.updates:
            return inbox, state
        names = set.intersection(*(set(update.tensors) for update in inbox.updates))  # what all clients sent
        moved = [torch.cat([u.change[name].flatten() for name in sorted(names)]) for u in inbox.updates]
        weights = torch.tensor([u.weight for u in inbox.updates]).to(moved[0])
        mean = (weights[:, None] * torch.stack(moved)).sum(0)
        found, updates = dict(state), []
        for update, change in zip(inbox.updates, moved, strict=True):
            score = self.chi + torch.cosine_similarity(change, mean, dim=0)
            before = state.get(f"{update.sender}|score", score)
            found[f"{update.sender}|score"] = score = self.memory * before + (1 - self.memory) * score
            updates.append(replace(update, weight=update.weight * float(score)))
        return replace(inbox, updates=tuple(updates)), found
