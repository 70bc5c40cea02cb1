"""LoRA on everybody's data in one place: what federation is measured against."""

from wavetune.federation.method import Lora, Method
from wavetune.federation.topology import Central
from wavetune.recipe import Recipe, RunSettings, World
from wavetune.recipes.sflllm import DATA, OPTIMISER


def recipe() -> Recipe:
    """One trainer, the clients' batches taken as one; nothing crosses the air, moving the data there is not charged."""
    method = Method(
        "Centralised LoRA: one trainer with all data", topology=Central(), lora=Lora(rank=8), optimiser=OPTIMISER
    )
    return Recipe("centralised_lora", World(data=DATA), method, RunSettings(rounds=10, evaluate_every=5))
