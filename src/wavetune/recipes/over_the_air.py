"""Over-the-air aggregation: all clients send at once, and the server hears the noisy sum.

Source: arXiv 2310.05076. Mathematics and defaults are our reconstruction (docs/exchange.md).
"""

from wavetune.federation.exchanges.over_the_air import OverTheAir
from wavetune.federation.mixing import FrozenA
from wavetune.recipe import Recipe
from wavetune.recipes import fedavg_lora


def recipe() -> Recipe:
    """The job of `fedavg_lora` with A frozen, so that noise acts on one factor alone."""
    title = "Over the air: all updates are added by the channel"
    return fedavg_lora.like("over_the_air", title, mixing=FrozenA(), exchange=OverTheAir())
