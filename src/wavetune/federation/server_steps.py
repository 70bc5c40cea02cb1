"""Steps that a server takes on rows of its own, between the mixture of a round and its broadcast."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le

from wavetune.federation.facts import ADAPTERS, BOTH_FACTORS, BY_SERVER, CLIENTS, EVERY_FACTOR, ONE_MIXTURE, WHOLE_MODEL
from wavetune.parts import Part


@dataclass(frozen=True)
class ServerSteps(Part):
    """Every round the server trains the mixture in its own model, on rows that `world.data.server_samples` gives it.

    Its optimiser is the method's with a constant `learning_rate` of its own; its moments stay from round to round. With
    `from_clients` false the server goes on from what it had, whatever came: what its steps are worth alone.
    """

    needs = (WHOLE_MODEL, CLIENTS, ADAPTERS, BOTH_FACTORS, EVERY_FACTOR, BY_SERVER, ONE_MIXTURE)
    steps: Annotated[int, Ge(1)] = 10
    learning_rate: Annotated[float, Ge(1e-12), Le(1e30)] = 5e-4
    from_clients: bool = True
