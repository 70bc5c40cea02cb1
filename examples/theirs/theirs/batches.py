"""Batches in proportion to clients' rows, so that in as many steps all of them pass through their rows as often.

    b_k = b n_k / max_j n_j, rounded, at least 1

n_k the rows of client k and b the largest batch. Then every row counts alike in the mean of the clients' gradients that
is weighed by their rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wavetune.federation.topology import Federated, Topology


@dataclass(frozen=True)
class Proportional(Topology):
    """Every client holds the whole model, and takes its share of `world.data.batching.batch_size` rows in a step."""

    removes = Federated.removes

    def batch_size_K(self, samples_K: Sequence[int], batch_size: int) -> Sequence[int]:
        """Rows of each client's local step."""
        most = max(samples_K)
        return [max(1, round(batch_size * n / most)) for n in samples_K]
