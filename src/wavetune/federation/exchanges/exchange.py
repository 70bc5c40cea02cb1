"""The seam of exchanges: they name nodes and messages, and say nothing of processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from wavetune.federation.facts import ADAPTERS
from wavetune.federation.updates import Inbox, Node, Update
from wavetune.parts import Part

if TYPE_CHECKING:
    from wavetune.federation.codecs import Tensors

SERVER = "fed"
Mix = Callable[[Inbox], "Tensors"]
"""The method's filters and mixing rule, applied to what came to a server."""


@dataclass(frozen=True)
class Hop:
    """Messages that cross at the same time: `ways` are senders with their receivers.

    Over "fed" clients and servers exchange as planned; the other media are links with rates of their own. With `names`
    the adapters of these sites alone cross.
    """

    kind: str
    ways: tuple[tuple[Node, tuple[Node, ...]], ...]
    medium: Literal["fed", "sidelink", "backhaul"] = "fed"
    names: frozenset[str] | None = None


@dataclass(frozen=True)
class Held:
    """What a node holds, and the weight of the clients that it stands for."""

    tensors: Tensors
    weight: float


class Exchange(Part):
    """How a round ends: who sends its adapters to whom, and what each node goes on with."""

    home = "wavetune.federation.exchanges"
    needs = (ADAPTERS,)
    over_fed: ClassVar[bool] = True  # whether clients exchange adapters with servers, over the federated band
    link_bit_per_s: float = 0.0  # of links that are not the cell's

    @property
    def servers(self) -> tuple[str, ...]:
        """Names of the nodes that are no clients."""
        return (SERVER,)

    def server_of(self, client: int) -> str:
        """The server whose adapters a client starts a round from."""
        return SERVER

    def hops(self, clients: Sequence[int], active: Sequence[int], round_index: int) -> tuple[Hop, ...]:
        """The messages of a round in order, of all clients and those that took part."""
        raise NotImplementedError

    def take(self, hop: Hop, node: Node, own: Held, inbox: Inbox, mix: Mix) -> Held:
        """What a node that a hop reaches holds afterwards."""
        raise NotImplementedError

    def common(self, held: Mapping[Node, Held]) -> Tensors:
        """One set of adapters for all, to evaluate and export: the mean of what the nodes hold."""
        if len(held) == 1:
            return next(iter(held.values())).tensors
        total = sum(one.weight for one in held.values())
        names = next(iter(held.values())).tensors
        return {name: sum(one.weight / total * one.tensors[name] for one in held.values()) for name in names}  # type: ignore[misc]


def weighted_mean(updates: Sequence[Update], weights: Sequence[float]) -> Tensors:
    """The sum of updates with these weights, whatever they sum to."""
    names = updates[0].tensors
    return {n: sum(w * u.tensors[n] for u, w in zip(updates, weights, strict=True)) for n in names}  # type: ignore[misc]
