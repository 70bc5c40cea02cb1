"""CRE: clients are scheduled against virtual energy queues, and send with the least energy that ends a round in time.

Source: reconstruction of arXiv 2308.03521; who takes part follows docs/cre.md, local steps and rank are fixed.
"""

from wavetune.federation.method import Lora, Method
from wavetune.federation.planning import Optimal
from wavetune.federation.selection.energy_queues import EnergyQueues
from wavetune.federation.topology import Federated
from wavetune.recipe import Recipe, RunSettings, World
from wavetune.recipes.sflllm import DATA, OPTIMISER


def recipe() -> Recipe:
    """FedAvg on LoRA factors in the world of `sflllm`, within a budget of about half of what everyone would spend."""
    method = Method(
        "CRE: federated LoRA scheduled against virtual energy queues",
        topology=Federated(),
        lora=Lora(rank=8),
        optimiser=OPTIMISER,
        planner=Optimal(minimise="energy", round_deadline_s=4.0),
        selection=EnergyQueues(budget_j=5.0),
    )
    return Recipe("cre", World(data=DATA), method, RunSettings(rounds=20, evaluate_every=5))
