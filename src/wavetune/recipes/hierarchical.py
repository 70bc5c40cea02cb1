"""A hierarchy: edge servers average their clients, and each other by push-sum.

Source: arXiv 2409.19509. Mathematics and defaults are our reconstruction (docs/exchange.md).
"""

from wavetune.federation.exchanges.hierarchical import Hierarchical
from wavetune.recipe import Recipe
from wavetune.recipes import fedavg_lora


def recipe() -> Recipe:
    """The job of `fedavg_lora` with three edge servers."""
    title = "Hierarchical: edge servers between clients and the mean of all"
    return fedavg_lora.like("hierarchical", title, exchange=Hierarchical())
