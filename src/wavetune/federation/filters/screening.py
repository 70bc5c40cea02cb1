"""Which updates a server takes: those that are finite and not out of all proportion."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Annotated

from annotated_types import Ge, Gt

from wavetune.federation.codecs.codec import Context, Tensors
from wavetune.federation.filters.filter import Filter
from wavetune.federation.updates import Inbox

_ROUNDING = 1.0 + 1e-6


@dataclass(frozen=True)
class Screening(Filter):
    """An update that is not finite, or whose norm is above `max_norm_ratio` times the median of its round, is rejected.

    The norm is that of the change since the last broadcast, over all shared adapters. A change that is no larger than
    the adapters themselves, as one that sets them to zero, is not rejected for its norm. A client whose updates were
    rejected `quarantine_after` times is not heard any more.
    """

    max_norm_ratio: Annotated[float, Gt(1)] = 10.0
    quarantine_after: Annotated[int, Ge(1)] = 3

    def take(self, inbox: Inbox, state: Tensors, context: Context) -> tuple[Inbox, Tensors]:
        """Take rejected updates out and count the rejections."""
        import torch

        so_far = {int(name.partition("|")[2]): int(count) for name, count in state.items()}
        by_client = {int(u.sender): u for u in inbox.updates}
        norms = {client: u.norm() for client, u in by_client.items()}
        found = self.rejected(norms, so_far, {client: u.size() for client, u in by_client.items()})
        counts = {k: torch.tensor(min(so_far.get(k, 0) + 1, self.quarantine_after)) for k in found}
        return inbox.without(found), {**state, **{f"rejections|{k}": count for k, count in counts.items()}}

    def rejected(
        self,
        norm_by_client: Mapping[int, float],
        rejections: Mapping[int, int],
        size_by_client: Mapping[int, float] | None = None,
    ) -> dict[int, str]:
        """Why each rejected client is, given norms of the updates that arrived and of the adapters that they change.

        `rejections` counts those of earlier rounds.

        >>> Screening().rejected({0: 1.0, 1: 1.2, 2: 50.0, 3: float("nan"), 4: 1.0}, {4: 3})
        {2: 'its norm 50 is 45.5 times the median', 3: 'it is not finite', 4: 'quarantined after 3 rejections'}
        """
        sizes = size_by_client or {}
        finite = [norm for norm in norm_by_client.values() if math.isfinite(norm)]
        typical, found = median(finite) if finite else 0.0, dict[int, str]()
        for client, norm in norm_by_client.items():
            if rejections.get(client, 0) >= self.quarantine_after:
                found[client] = f"quarantined after {rejections[client]} rejections"
            elif not math.isfinite(norm):
                found[client] = "it is not finite"
            elif typical > 0 and norm > max(self.max_norm_ratio * typical, _ROUNDING * sizes.get(client, 0.0)):
                found[client] = f"its norm {norm:.3g} is {norm / typical:.3g} times the median"
        return found
