"""The sequential schedule of SplitLoRA: the server steps after each client in turn. A named baseline."""

from wavetune.federation.method import Lora, Method
from wavetune.federation.topology import Split
from wavetune.recipe import Recipe, RunSettings, World
from wavetune.recipes.sflllm import DATA, OPTIMISER


def recipe() -> Recipe:
    """Split LoRA, three blocks on the clients, in the same world as `sflllm`. Source: SplitLoRA, arXiv 2407.00952."""
    method = Method(
        "SplitLoRA, sequential: the server steps after each client",
        topology=Split(cut=3, schedule="sequential"),
        lora=Lora(rank=8),
        optimiser=OPTIMISER,
    )
    return Recipe("split_lora_sequential", World(data=DATA), method, RunSettings(rounds=10, evaluate_every=5))
