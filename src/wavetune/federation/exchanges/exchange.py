"""The seam of exchanges: they name nodes and messages, and say nothing of processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from wavetune.costs.adapter import AdapterSite
from wavetune.federation.codecs import Context, Tensors
from wavetune.federation.codecs.codec import are_tensors
from wavetune.federation.facts import ADAPTERS, ONE_MIXTURE
from wavetune.federation.messages import EVERYTHING, Agenda
from wavetune.federation.updates import Inbox, Node, Update
from wavetune.guarded import Checks, returning
from wavetune.parts import Part

SERVER = "fed"
Mix = Callable[[Inbox], "Tensors"]
"""The method's filters and mixing rule, applied to what came to a server."""


@dataclass(frozen=True)
class Hop:
    """Messages of one kind that cross at the same time: `ways` are senders with their receivers."""

    kind: str
    ways: tuple[tuple[Node, tuple[Node, ...]], ...]


@dataclass(frozen=True)
class Held:
    """What a node holds, and the weight of the clients that it stands for."""

    tensors: Tensors
    weight: float = 1.0


def _check_hops(exchange: Exchange, found: Any, clients: Sequence[int], *_: Any) -> str:
    nodes = {*clients, *exchange.servers}
    ways = [way for hop in found for way in hop.ways] if all(isinstance(hop, Hop) for hop in found) else None
    if ways is None or not all(node in nodes for sender, reached in ways for node in (sender, *reached)):
        return f"a tuple of Hop whose ways are among clients and {', '.join(exchange.servers)}"
    lost = [k for k in clients if exchange.server_of(k) not in exchange.servers]
    return f"hops of clients whose server_of is among its servers, not as that of client {lost[0]}" if lost else ""


def _check_agenda(_: Exchange, found: Any, state: Tensors, num_layers: int, *__: Any) -> str:
    own = found if isinstance(found, Agenda) else Agenda(())
    fits = own.blocks != () and {*(own.blocks or ())} <= {*range(num_layers)} and own.frozen <= {*"AB"}
    return "" if fits else f"an Agenda of all blocks or of some from 0 to {num_layers - 1}, frozen factors A and B"


def _check_state(_: Exchange, found: Any, *__: Any) -> str:
    return "" if are_tensors(found) else "what it remembers, a dict of tensors"


class Exchange(Part):
    """How a round ends: who sends its adapters to whom, and what each node goes on with.

    One after which all go on with one mixture, and hear nothing else of each other, says so by `removes = ()`.
    """

    home = "wavetune.federation.exchanges"
    needs = (ADAPTERS,)
    removes = (ONE_MIXTURE,)
    checks: ClassVar[Checks] = {
        "hops": _check_hops,
        "agenda": _check_agenda,
        "take": returning(Held, "a Held"),
        "settle": _check_state,
    }
    over_fed: ClassVar[bool] = True  # whether updates cross the federated band by themselves, as the planner counts
    uncounted_j: ClassVar[str] = ""  # whose energy no account has, in words
    simulated_only: ClassVar[str] = ""  # why devices and servers cannot exchange so; empty: they can

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

    def agenda(self, state: Tensors, num_layers: int, round_index: int) -> Agenda:
        """What a round trains and sends, given what the exchange remembers: nothing before the first round."""
        return EVERYTHING

    def settle(
        self, state: Tensors, sites: Sequence[AdapterSite], before: Mapping[Node, Held], after: Mapping[Node, Held]
    ) -> Tensors:
        """What the exchange remembers of a round, of what servers held at its start and its end."""
        return state

    def take(self, hop: Hop, node: Node, own: Held, inbox: Inbox, mix: Mix, context: Context) -> Held:
        """What a node that a hop reaches holds afterwards; `mix` is for servers alone."""
        raise NotImplementedError

    def common(self, held: Mapping[Node, Held], clients: Callable[[], Sequence[Held]]) -> Tensors:
        """One set of adapters for all, to evaluate and export, of what servers (and clients) hold."""
        return held[SERVER].tensors

    def link_s(self, hop: Hop, values: float, bits: float, band_hz: float) -> float:
        """Seconds of a hop that is not planned with the federated band, whose messages have so many values and bits."""
        return 0.0


def weighted_sum(held: Sequence[Held | Update], weights: Sequence[float]) -> Tensors:
    """The sum of adapters with these weights, whatever they sum to."""
    found = {name: weights[0] * t for name, t in held[0].tensors.items()}
    for one, weight in zip(held[1:], weights[1:], strict=True):
        for name in found:
            found[name] = found[name] + weight * one.tensors[name]
    return found


def mean(held: Sequence[Held]) -> Tensors:
    """The mean by weight."""
    total = sum(one.weight for one in held)
    return weighted_sum(held, [one.weight / total if total else 1 / len(held) for one in held])
