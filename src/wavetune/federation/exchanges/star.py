"""One server in the middle: clients send up, it mixes, and the mixture goes down to all."""

from collections.abc import Sequence
from dataclasses import dataclass

from wavetune.federation.codecs.codec import Context
from wavetune.federation.exchanges.exchange import SERVER, Exchange, Held, Hop, Mix
from wavetune.federation.updates import Inbox, Node


@dataclass(frozen=True)
class Star(Exchange):
    """All clients send to one server, which broadcasts the mixture of their updates."""

    needs = ()
    removes = ()

    def hops(self, clients: Sequence[int], active: Sequence[int], round_index: int) -> tuple[Hop, ...]:
        """Up to the server, and down again to all."""
        up = tuple((k, (SERVER,)) for k in active)
        return Hop("adapters_up", up), Hop("adapters_down", ((SERVER, tuple(clients)),))

    def take(self, hop: Hop, node: Node, own: Held, inbox: Inbox, mix: Mix, context: Context) -> Held:
        """The mixture."""
        return Held(mix(inbox))
