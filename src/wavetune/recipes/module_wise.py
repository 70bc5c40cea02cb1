"""Module-wise federated LoRA: after some full rounds only the blocks that still move are trained and sent.

Source: arXiv 2507.05861. Mathematics and defaults are our reconstruction (docs/exchange.md).
"""

from dataclasses import replace

from wavetune.federation.exchanges.module_wise import ModuleWise
from wavetune.recipe import Recipe
from wavetune.recipes import fedavg_lora


def recipe() -> Recipe:
    """The job of `fedavg_lora`, of whose rounds a fifth is about all blocks."""
    plain = fedavg_lora.recipe()
    title = "Module-wise: only blocks that still move are trained and sent"
    return replace(plain, name="module_wise", method=replace(plain.method, title=title, exchange=ModuleWise()))
