"""Module-wise federated LoRA: after some full rounds only the blocks that still move are trained and sent.

Source: arXiv 2507.05861. Mathematics and defaults are our reconstruction (docs/exchange.md).
"""

from wavetune.federation.exchanges.module_wise import ModuleWise
from wavetune.recipe import Recipe
from wavetune.recipes import fedavg_lora


def recipe() -> Recipe:
    """The job of `fedavg_lora`, of whose rounds a fifth is about all blocks."""
    title = "Module-wise: only blocks that still move are trained and sent"
    return fedavg_lora.like("module_wise", title, exchange=ModuleWise())
