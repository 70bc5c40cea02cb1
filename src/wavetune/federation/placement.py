"""Which blocks of the model each client runs, what crosses between them and the servers, and which side is computed.

Legend: K clients, L blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wavetune.federation.cut import Crossing


@dataclass(frozen=True)
class Placement:
    """Which blocks each client runs: the first `cut_K[k]`, and with `tail_K[k]` not None the last `tail_K[k]` and the
    head.

    A client that runs all blocks (`cut_K[k] == num_layers`, tail None) and has its labels itself is not split at all:
    `split` False. Weights w_K sum to 1 over the cohort.
    """

    num_layers: int
    cut_K: tuple[int, ...]
    tail_K: tuple[int | None, ...]
    weight_K: tuple[float, ...]
    split: bool = True
    sequential: bool = False

    @property
    def num_clients(self) -> int:
        """Size of the cohort."""
        return len(self.cut_K)

    def among(self, active_K: Sequence[bool]) -> Placement:
        """The same with the weights of those alone that take part."""
        total = sum(w for w, active in zip(self.weight_K, active_K, strict=True) if active)
        weights = (w / total if active else 0.0 for w, active in zip(self.weight_K, active_K, strict=True))
        return replace(self, weight_K=tuple(weights))

    def local_LK(self) -> NDArray[np.bool_]:
        """Which blocks each client holds, `[L, K]`."""
        layer = np.arange(self.num_layers)[:, None]
        tail = np.array([0 if t is None else t for t in self.tail_K])
        return (layer < np.array(self.cut_K)) | (layer >= self.num_layers - tail)

    def head_at_client(self, client: int) -> bool:
        """Whether a client computes its own loss; its labels then stay with it."""
        return not self.split or self.tail_K[client] is not None

    def loss_weight(self, client: int) -> float:
        """Factor of F_k in the sum that is differentiated: 1 where the labels stay with the client."""
        return 1.0 if self.head_at_client(client) else self.server_weight(client)

    def server_weight(self, client: int) -> float:
        """w_k in the server's sum; the sequential server sees one client at a time."""
        return 1.0 if self.sequential else self.weight_K[client]

    def crossings(self, done: int, clients: Sequence[int], tokens: Sequence[int]) -> list[Crossing]:
        """Who crosses a cut after `done` blocks, in a pass over these clients."""
        found, start = list[Crossing](), 0
        for client, count in zip(clients, tokens, strict=True):
            span, weight = (start, start + count), self.server_weight(client)
            if self.split and done == self.cut_K[client]:
                found.append(Crossing(client, *span, weight, to_server=True))
            tail = self.tail_K[client]
            if self.split and tail is not None and done == self.num_layers - tail:
                found.append(Crossing(client, *span, weight, to_server=False))
            start += count
        return found


@dataclass(frozen=True)
class Half:
    """Which sides of its cuts a cohort computes. What is computed elsewhere comes over the cut."""

    clients: bool = True
    servers: bool = True

    def blocks(self, placement: Placement, client: int) -> range:
        """The blocks that are run here for a client. A client's own model lacks those that are not its."""
        if self.clients:
            return range(placement.num_layers)
        return range(placement.cut_K[client], placement.num_layers - (placement.tail_K[client] or 0))

    def has_head(self, placement: Placement, client: int) -> bool:
        """Whether a client's loss is computed here."""
        return self.clients if placement.head_at_client(client) else self.servers


WHOLE, OF_CLIENTS, OF_SERVERS = Half(), Half(servers=False), Half(clients=False)
