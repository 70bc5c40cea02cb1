"""The seam of models that clients train in the place of the servers'. Needs no torch."""

from collections.abc import Container
from typing import Any, ClassVar

from wavetune.costs.architecture import Architecture
from wavetune.federation.distillation import Distillation
from wavetune.federation.facts import BOTH_FACTORS, BY_SERVER, CLIENTS, SERVERS_MODEL, WHOLE_MODEL
from wavetune.parts import Part


class ClientModel(Part):
    """Another model than the servers', made of it, which clients are sent once.

    What clients share acts in both models, at places of the same names. The servers' is judged and left behind.
    """

    home = "wavetune.federation.client_models"
    needs = (WHOLE_MODEL, CLIENTS, BY_SERVER, BOTH_FACTORS)
    removes = (SERVERS_MODEL,)
    simulated_only: ClassVar[str] = "devices open the model's folder themselves, which would give them the servers'"

    def architecture(self, servers: Architecture) -> Architecture:
        """What planning and accounts count of it, given the servers' model."""
        raise NotImplementedError

    def blocks(self, num_layers: int) -> Container[int]:
        """The blocks that are sent: others have the weights of one of these."""
        return range(num_layers)

    def make(self, model: Any) -> None:
        """Turn a stock model, as it was opened, into the clients'. Raises ModelError where that cannot be."""
        raise NotImplementedError

    @property
    def distillation(self) -> Distillation | None:
        """How the server trains it before the clients are sent it."""
        return None
