"""PWFF: shared adapters, private LoRA, then local alignment of every client to its owner's wishes.

Source: arXiv 2404.13238. Structure, objective and defaults are our reconstruction (docs/pwff.md).
The world is the preset `cell`, a street cell with handsets; `world.scenario.preset=paper` has the ideal links that the
paper's formulas take for granted.
"""

from wavetune.data.batching import Batching
from wavetune.data.examples import PreferenceKind
from wavetune.data.partition import Dirichlet
from wavetune.data.settings import DataSettings
from wavetune.federation.adapters.bottleneck import Bottleneck
from wavetune.federation.local_alignment import LocalAlignment
from wavetune.federation.method import Lora, Method
from wavetune.federation.optimise import AdamW
from wavetune.federation.rewards import EmbeddedReward, RewardTraining
from wavetune.federation.sharing import Sharing
from wavetune.federation.topology import Federated
from wavetune.recipe import Recipe, RunSettings, World
from wavetune.recipes.pwff_task import LINK

DATA = DataSettings(
    source="concierge",
    train_samples=2000,
    validation_samples=200,
    partition=Dirichlet(alpha=0.3),
    batching=Batching(batch_size=4),
)


def _reward(preference: PreferenceKind) -> EmbeddedReward:
    return EmbeddedReward(preference=preference, training=RewardTraining(test_pairs=200))


def recipe() -> Recipe:
    """Five clients with wishes from all safe to all helpful, the embedded concierge, SmolLM2-135M."""
    method = Method(
        "PWFF: shared adapters, private LoRA, local alignment to each owner's wishes",
        topology=Federated(),
        lora=Lora(rank=12),
        bottleneck=Bottleneck(),
        sharing=Sharing(shared=("bottleneck",)),
        optimiser=AdamW(learning_rate=5e-3, warmup_steps=3),
        link=LINK,
        alignment=LocalAlignment(helpful=_reward("helpful"), safe=_reward("harmless")),
    )
    return Recipe("pwff", World(data=DATA), method, RunSettings(rounds=6, local_steps=4, evaluate_every=6))


SHORT = (
    "world.data.train_samples=300",
    "world.data.validation_samples=40",
    "run.rounds=2",
    "run.evaluate_every=2",
    "run.sample_tokens=16",
    "method.alignment.learning.steps=2",
    "method.alignment.learning.prompts_per_step=4",
    "method.alignment.learning.max_new_tokens=16",
    "method.alignment.held_out_prompts=4",
    *(
        f"method.alignment.{reward}.training.{setting}"
        for reward in ("helpful", "safe")
        for setting in ("model=tiny-bert", "steps=4", "evaluate_every=4", "validation_pairs=20", "test_pairs=20")
    ),
)
ONLY_EVALUATED = "method.alignment.learning.steps=0"
BASELINES = {
    "without_alignment": ("method.title=PWFF without its second stage", ONLY_EVALUATED),
    "local_only": ("method.title=Local only: nothing is shared", "method.sharing.shared=[]", ONLY_EVALUATED),
    "fedavg_lora": (
        "method.title=FedAvg-LoRA: LoRA shared, no adapters",
        "method.bottleneck=null",
        'method.sharing.shared=["lora"]',
        ONLY_EVALUATED,
    ),
    "all_shared": (
        "method.title=Adapters and LoRA all shared",
        'method.sharing.shared=["lora", "bottleneck"]',
        ONLY_EVALUATED,
    ),
    "split": (
        "method.title=Split LoRA (FedBERT-style): the first three blocks on the clients",
        "method.alignment=null",
        "method.bottleneck=null",
        'method.sharing.shared=["lora"]',
        "method.topology.kind=split",
        "method.topology.cut=3",
    ),
}
