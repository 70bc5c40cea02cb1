"""STFL: lost updates are blended of the others' mean and each client's own last one.

Source: arXiv 2110.14578. The blend and its fit are our reconstruction (docs/exchange.md).
"""

from wavetune.federation.filters.blend import Blend
from wavetune.federation.links import Outage
from wavetune.recipe import Recipe
from wavetune.recipes import fedavg_lora


def recipe() -> Recipe:
    """The job of `fedavg_lora`, a third of whose uploads are lost."""
    title = "STFL: lost updates are made up for in space and time"
    return fedavg_lora.like("stfl", title, link=Outage(loss_probability=0.3, lost=Blend()))
