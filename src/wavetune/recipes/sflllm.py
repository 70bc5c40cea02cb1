"""SflLLM: split federated LoRA with subchannels, power, cut and rank chosen together for the least training delay.

Source: arXiv 2504.14667. The latency model, the solver's details and the defaults are our reconstruction
(docs/sflllm.md).
The world is the preset `cell`, a street cell with handsets; `world.scenario.preset=paper` has the ideal links that the
paper's formulas take for granted.
"""

from wavetune.data.batching import Batching
from wavetune.data.partition import Dirichlet
from wavetune.data.settings import DataSettings
from wavetune.federation.codec_choice import CodecCandidate
from wavetune.federation.codecs import Bf16, Fp32, Int8
from wavetune.federation.method import Lora, Method
from wavetune.federation.optimise import AdamW
from wavetune.federation.rank_choice import Rounds
from wavetune.federation.topology import Split
from wavetune.recipe import Recipe, RunSettings, World

DATA = DataSettings(
    train_samples=4000, validation_samples=96, partition=Dirichlet(alpha=0.5), batching=Batching(batch_size=4)
)
OPTIMISER = AdamW(learning_rate=2e-3)
STEPS: dict[int, tuple[float, ...]] = {
    1: (25.0, 25.0, 25.0),
    2: (16.92, 18.28, 17.13),
    4: (13.56, 15.10, 15.32),
    8: (11.80, 13.84, 13.39),
    16: (10.65, 11.90, 11.45),
}
ROUNDS_TO_TARGET: dict[int, Rounds] = {rank: tuple(steps / 4 for steps in seeds) for rank, seeds in STEPS.items()}
"""Rounds to the target loss at each rank, of each seed, measured with `wavetune measure-ranks` (docs/recipes.md names
the run) in rounds of one step and counted here in the recipes' rounds of four.
"""
TARGET_LOSSES = 1.824, 1.922, 1.809  # the validation loss of each seed
CODEC_CANDIDATES: tuple[CodecCandidate, ...] = (
    CodecCandidate(Fp32(), Fp32(), 1.0),
    CodecCandidate(Bf16(), Bf16(), 1.003),
    CodecCandidate(Int8(outlier_channels=8), Int8(outlier_channels=8), 1.003),
    CodecCandidate(Int8(outlier_channels=0), Int8(outlier_channels=0), 1.016),
)
"""What codecs at the cut cost in rounds, measured with `wavetune measure-codecs` (see docs/planning-options.md)."""


def recipe() -> Recipe:
    """The default job: five clients, the embedded restaurant corpus, SmolLM2-135M."""
    method = Method(
        "SflLLM: split federated LoRA with jointly planned subchannels, power, cut and rank",
        topology=Split(),
        lora=Lora(alpha=2 * 8**0.5, scaling="root"),  # as E(r) was measured; twice the product of factors at rank 8
        optimiser=OPTIMISER,
        rounds_to_target=ROUNDS_TO_TARGET,
        codec_candidates=CODEC_CANDIDATES,
    )
    return Recipe("sflllm", World(data=DATA), method, RunSettings(rounds=10, evaluate_every=5))


BASELINES = {
    "fedavg_lora": (
        "method.title=FedAvg-LoRA: whole model on every client, adapters averaged",
        "method.topology.kind=federated",
        "method.lora.rank=8",
    ),
    "split_lora_sequential": (
        "method.title=SplitLoRA, sequential: the server steps after each client",
        "method.topology.cut=3",
        "method.topology.schedule=sequential",
        "method.lora.rank=8",
    ),
    "centralised_lora": (
        "method.title=Centralised LoRA: one trainer with all data",
        "method.topology.kind=central",
        "method.lora.rank=8",
    ),
}
