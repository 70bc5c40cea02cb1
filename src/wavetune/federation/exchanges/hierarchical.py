"""A hierarchy: clients average at their edge server, and edges with each other by push-sum over a backhaul.

An edge e holds the mean y_e of its clients' updates and their weight n_e. In every step of gossip, with a symmetric
doubly stochastic M,

    n_e y_e <- sum_f M_ef n_f y_f,   n_e <- sum_f M_ef n_f,   y_e = ratio of the two

so that the mean weighted by data is kept, which plain gossip of the y_e would not do. With a complete graph, M = 1/E,
one step is FedAvg over all clients. M are Metropolis weights on a ring. Source: reconstruction of arXiv 2409.19509,
with push-sum from Kempe et al. (FOCS 2003). Ignores: where edge servers stand; clients are heard as by one station.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge

from wavetune.errors import ConfigError
from wavetune.federation.codecs import Tensors
from wavetune.federation.codecs.codec import Context
from wavetune.federation.exchanges.exchange import Exchange, Held, Hop, Mix, mean, weighted_sum
from wavetune.federation.facts import ADAPTERS, WHOLE_MODEL
from wavetune.federation.updates import Inbox, Node
from wavetune.parts import Extent


@dataclass(frozen=True)
class Hierarchical(Exchange):
    """Clients in turn belong to `edges` servers, which gossip `steps` times every `period` rounds on a graph.

    Their links carry `link_bit_per_s` each. What is evaluated and exported is the mean of the edges by their clients'
    data; clients go on with what their own edge holds.
    """

    needs = (ADAPTERS, WHOLE_MODEL)
    uncounted_j = "links between servers"
    edges: Annotated[int, Ge(1)] = 3
    graph: Literal["complete", "ring"] = "complete"
    steps: Annotated[int, Ge(0)] = 1
    period: Annotated[int, Ge(1)] = 1
    link_bit_per_s: Annotated[float, Ge(1e3)] = 5e7

    def fits(self, path: str, extent: Extent) -> None:
        """Refuse edges without clients."""
        if self.edges > extent.num_clients:
            raise ConfigError(
                f"{path}.edges is {self.edges} but there are {extent.num_clients} clients; give at most that"
            )

    @property
    def servers(self) -> tuple[str, ...]:
        """The edge servers."""
        return tuple(f"edge-{e}" for e in range(self.edges))

    def server_of(self, client: int) -> str:
        """The edge of a client."""
        return f"edge-{client % self.edges}"

    def hops(self, clients: Sequence[int], active: Sequence[int], round_index: int) -> tuple[Hop, ...]:
        """Up to the edges, among them if this round is one of those, and down again."""
        up = Hop("adapters_up", tuple((k, (self.server_of(k),)) for k in active))
        across = Hop("backhaul", tuple((name, self._neighbours(e)) for e, name in enumerate(self.servers)))
        down = tuple((name, tuple(k for k in clients if self.server_of(k) == name)) for name in self.servers)
        meets = self.edges > 1 and (round_index + 1) % self.period == 0
        return up, *(across,) * (self.steps if meets else 0), Hop("adapters_down", down)

    def _neighbours(self, edge: int) -> tuple[str, ...]:
        around = {(edge - 1) % self.edges, (edge + 1) % self.edges}
        wanted = range(self.edges) if self.graph == "complete" else sorted(around)
        return tuple(self.servers[e] for e in wanted if e != edge)

    def take(self, hop: Hop, node: Node, own: Held, inbox: Inbox, mix: Mix, context: Context) -> Held:
        """The mixture of an edge's clients, or push-sum with the neighbours, each with its clients' weight."""
        if hop.kind == "adapters_up":
            return Held(mix(inbox), sum(u.weight for u in inbox.updates))
        share = 1 / (1 + len(inbox.updates))  # all degrees are equal on both graphs
        held = [own, *inbox.updates]
        weight = sum(share * one.weight for one in held)
        if not weight:
            return own
        return Held(weighted_sum(held, [share * one.weight / weight for one in held]), weight)

    def common(self, held: Mapping[Node, Held], clients: Callable[[], Sequence[Held]]) -> Tensors:
        """The mean of the edges by weight."""
        return mean(list(held.values()))

    def link_s(self, hop: Hop, values: float, bits: float, band_hz: float) -> float:
        """Seconds of a backhaul step; clients' messages are planned with the band."""
        return bits / self.link_bit_per_s if hop.kind == "backhaul" else 0.0
