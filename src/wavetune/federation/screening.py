"""Which updates a server takes: those that are finite and not out of all proportion."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Annotated

from annotated_types import Ge, Gt


@dataclass(frozen=True)
class Screening:
    """An update that is not finite, or whose norm is above `max_norm_ratio` times the median of its round, is rejected.

    A client whose updates were rejected `quarantine_after` times is not heard any more. The norm is that of the change
    since the last broadcast, over all shared adapters.
    """

    max_norm_ratio: Annotated[float, Gt(1)] = 10.0
    quarantine_after: Annotated[int, Ge(1)] = 3

    def rejected(self, norm_by_client: Mapping[int, float], rejections: Mapping[int, int]) -> dict[int, str]:
        """Why each rejected client is, given the norms of the updates that arrived and earlier rejections.

        >>> Screening().rejected({0: 1.0, 1: 1.2, 2: 50.0, 3: float("nan"), 4: 1.0}, {4: 3})
        {2: 'its norm 50 is 45.5 times the median', 3: 'it is not finite', 4: 'quarantined after 3 rejections'}
        """
        finite = [norm for norm in norm_by_client.values() if math.isfinite(norm)]
        typical, found = median(finite) if finite else 0.0, dict[int, str]()
        for client, norm in norm_by_client.items():
            if rejections.get(client, 0) >= self.quarantine_after:
                found[client] = f"quarantined after {rejections[client]} rejections"
            elif not math.isfinite(norm):
                found[client] = "it is not finite"
            elif typical > 0 and norm > self.max_norm_ratio * typical:
                found[client] = f"its norm {norm:.3g} is {norm / typical:.3g} times the median"
        return found
