"""A server that keeps adapters for every client by itself, mixed mostly of those that are like the client's own.

    u_k <- (1 - s) x_k + s sum_{j != k} a_kj x_j,   a_kj proportional to exp(-||x_k - x_j||^2 / sigma)

Source: FedAMP (arXiv 2007.03797), our reconstruction; its proximal term is `method.proximal`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt, Le

from wavetune.errors import ConfigError
from wavetune.federation.exchanges.exchange import Exchange, Held, Hop, Mix, mean, weighted_sum
from wavetune.federation.facts import ADAPTERS, COMMON_START, INDIVIDUAL, ONE_MIXTURE, ONE_RANK, WHOLE_MODEL

if TYPE_CHECKING:
    from wavetune.federation.codecs import Context, Tensors
    from wavetune.federation.updates import Inbox, Node
    from wavetune.parts import Extent


@dataclass(frozen=True)
class Alike(Exchange):
    """Of `clients` clients, each keeps 1 - `share` of its own adapters; the rest is the others', by likeness."""

    needs = (ADAPTERS, WHOLE_MODEL, ONE_RANK, INDIVIDUAL)
    removes = (COMMON_START, ONE_MIXTURE)
    clients: Annotated[int, Ge(1)] = 5
    share: Annotated[float, Gt(0), Le(1)] = 0.5
    sigma: Annotated[float, Gt(0)] = 1.0

    def fits(self, path: str, extent: Extent) -> None:
        """Refuse another number of clients than there are."""
        if self.clients != extent.num_clients:
            raise ConfigError(f"{path}.clients is {self.clients} but there are {extent.num_clients}; give that")

    @property
    def servers(self) -> tuple[str, ...]:
        """What the one server keeps for each client."""
        return tuple(map(self.server_of, range(self.clients)))

    def server_of(self, client: int) -> str:
        """What it keeps for this one."""
        return f"cloud-{client}"

    def hops(self, clients: Sequence[int], active: Sequence[int], round_index: int) -> tuple[Hop, ...]:
        """Up to all, and down to each its own."""
        up = Hop("adapters_up", tuple((k, self.servers) for k in active))
        return up, Hop("adapters_down", tuple((self.server_of(k), (k,)) for k in clients))

    def take(self, hop: Hop, node: Node, own: Held, inbox: Inbox, mix: Mix, context: Context) -> Held:
        """The client's mixture; as it was, where nothing came of the client."""
        import torch

        sent = {self.server_of(int(update.sender)): update for update in inbox.updates}
        if node not in sent:
            return own
        flat = {name: torch.cat([t.flatten() for t in update.tensors.values()]) for name, update in sent.items()}
        others = [name for name in sent if name != node]
        distance = torch.tensor([float((flat[str(node)] - flat[name]).square().sum()) for name in others])
        weights = (self.share * torch.softmax(-distance / self.sigma, 0)).tolist()
        mixed = weighted_sum([sent[name] for name in (str(node), *others)], [1 - sum(weights), *weights])
        return Held(mixed, own.weight)

    def common(self, held: Mapping[Node, Held], clients: Callable[[], Sequence[Held]]) -> Tensors:
        """Their mean, to evaluate and export."""
        return mean([held[name] for name in self.servers])
