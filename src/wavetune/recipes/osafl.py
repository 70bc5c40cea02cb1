"""OSAFL: an update counts by how well it points where all together point.

Source: arXiv 2408.05886. Scores and storage are our reconstruction (docs/exchange.md, docs/data.md). Local steps that
differ from client to client are not there.
"""

from dataclasses import replace

from wavetune.data.stream import Stream
from wavetune.federation.filters.scores import Scores
from wavetune.recipe import Recipe
from wavetune.recipes import fedavg_lora


def recipe() -> Recipe:
    """The job of `fedavg_lora`, whose samples arrive as a stream and whose updates are scored by the server."""
    plain = fedavg_lora.like("osafl", "OSAFL: updates weighed by their scores", filters=(Scores(),))
    return replace(plain, world=replace(plain.world, data=replace(plain.world.data, stream=Stream())))
