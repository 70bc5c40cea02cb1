"""Gossip: clients average with their neighbours on a ring, without a server.

Source: Xiao and Boyd, 2004. Defaults are ours (docs/exchange.md).
"""

from wavetune.federation.exchanges.gossip import Gossip
from wavetune.recipe import Recipe
from wavetune.recipes import fedavg_lora


def recipe() -> Recipe:
    """The job of `fedavg_lora`, whose clients send to their neighbours."""
    return fedavg_lora.like("gossip", "Gossip: clients average with their neighbours", exchange=Gossip())
