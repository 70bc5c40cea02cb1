"""Federated LoRA without a split: every client trains the whole model's adapters and the server averages them."""

from dataclasses import replace
from typing import Any

from wavetune.federation.method import Lora, Method
from wavetune.federation.topology import Federated
from wavetune.recipe import Recipe, RunSettings, World
from wavetune.recipes.sflllm import DATA, OPTIMISER


def recipe() -> Recipe:
    """FedAvg on LoRA factors, in the same world as `sflllm`."""
    method = Method(
        "FedAvg-LoRA: whole model on every client, adapters averaged",
        topology=Federated(),
        lora=Lora(rank=8),
        optimiser=OPTIMISER,
    )
    return Recipe("fedavg_lora", World(data=DATA), method, RunSettings(rounds=10, evaluate_every=5))


def like(name: str, title: str, **parts: Any) -> Recipe:
    """The same job under another name, with these parts of its method."""
    plain = recipe()
    return replace(plain, name=name, method=replace(plain.method, title=title, **parts))
