"""Gossip: neighbours average with each other, and every client ends the round with adapters of its own.

    x_k <- sum_j W_kj x_j,  W_kj = 1 / (1 + max(d_k, d_j)) for neighbours, W_kk = 1 - sum of the others

W are the Metropolis weights of the graph, d its degrees: symmetric, and rows sum to 1, so that the plain mean over
clients is kept. Source: Xiao and Boyd, Systems and Control Letters 53 (2004). Ignores: how clients find each other, and
collisions of their messages.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from wavetune.federation.codecs import Tensors
from wavetune.federation.codecs.codec import Context
from wavetune.federation.exchanges.exchange import Exchange, Held, Hop, Mix, mean, weighted_sum
from wavetune.federation.facts import ADAPTERS, BOTH_FACTORS, BY_SERVER, COMMON_START, ONE_RANK, WHOLE_MODEL
from wavetune.federation.updates import Inbox, Node


@dataclass(frozen=True)
class Gossip(Exchange):
    """Clients send to those that took part beside them, on a ring of `reach` on either side (None: to everyone).

    They do so `times` a round, over links of `link_bit_per_s` each. What is evaluated and exported is the plain mean of
    all clients' adapters.
    """

    needs = (ADAPTERS, BOTH_FACTORS, WHOLE_MODEL, ONE_RANK)
    removes = (COMMON_START, BY_SERVER)
    over_fed = False
    uncounted_j = "links between clients"
    simulated_only = "devices open connections to their servers alone and none to each other"
    reach: Annotated[int, Ge(1)] | None = 1
    times: Annotated[int, Ge(1)] = 1
    link_bit_per_s: Annotated[float, Ge(1e3)] = 2e7

    def neighbours(self, client: int, active: Sequence[int]) -> tuple[int, ...]:
        """Whom a client that took part sends to.

        >>> Gossip().neighbours(4, [0, 2, 3, 4]), Gossip(reach=None).neighbours(4, [0, 2, 3, 4])
        ((0, 3), (0, 2, 3))
        """
        at, n = active.index(client), len(active)
        reach = n if self.reach is None else self.reach
        near = {active[(at + step) % n] for step in range(-reach, reach + 1)}
        return tuple(sorted(near - {client}))

    def hops(self, clients: Sequence[int], active: Sequence[int], round_index: int) -> tuple[Hop, ...]:
        """Every client to its neighbours, as often as is asked."""
        return (Hop("adapters_side", tuple((k, self.neighbours(k, active)) for k in active)),) * self.times

    def take(self, hop: Hop, node: Node, own: Held, inbox: Inbox, mix: Mix, context: Context) -> Held:
        """A client's adapters averaged with its neighbours'."""
        degree = {sender: len(receivers) for sender, receivers in hop.ways}
        weights = [1 / (1 + max(degree[node], degree[u.sender])) for u in inbox.updates]
        return Held(weighted_sum([own, *inbox.updates], [1 - sum(weights), *weights]), own.weight)

    def common(self, held: Mapping[Node, Held], clients: Callable[[], Sequence[Held]]) -> Tensors:
        """The plain mean over clients, which gossip keeps."""
        return mean([Held(one.tensors) for one in clients()])

    def link_s(self, hop: Hop, values: float, bits: float, band_hz: float) -> float:
        """Seconds until every client has sent its message, once, to all its neighbours."""
        return bits / self.link_bit_per_s if any(receivers for _, receivers in hop.ways) else 0.0
