"""FedSP: clients train prefixes on a model made of one block of the server's; the prefixes alone come back.

Source: our reconstruction of arXiv 2311.06805 from its abstract and public program. Defaults are our own.
"""

from dataclasses import replace

from wavetune.federation.adapters.prefix import Prefix
from wavetune.federation.client_models.repeated_block import RepeatedBlock
from wavetune.federation.distillation import Distillation
from wavetune.federation.server_steps import ServerSteps
from wavetune.federation.sharing import Sharing
from wavetune.recipe import Recipe
from wavetune.recipes import fedavg_lora
from wavetune.recipes.sflllm import OPTIMISER


def recipe() -> Recipe:
    """The job of `fedavg_lora`, whose clients never see the server's model; the server has some rows of its own."""
    plain = fedavg_lora.like(
        "fedsp",
        "FedSP: prefixes trained on one repeated block of the server's hidden model are put into it",
        adapters=(Prefix(),),
        sharing=Sharing(shared=("prefix",)),
        client_model=RepeatedBlock(distil=Distillation(steps=100, batch_size=4)),
        turns=(("lora",), ("prefix",)),
        server_steps=ServerSteps(),
        optimiser=replace(OPTIMISER, learning_rate=5e-4, weight_decay=0.0),
    )
    world = replace(plain.world, data=replace(plain.world.data, server_samples=32))
    return replace(plain, world=world, run=replace(plain.run, rounds=20, local_steps=20))


# What `wavetune compare fedsp` runs beside it. Prefix tuning of the server's own model shows that model to all clients.
ONE_MODEL = ("method.client_model=null", "method.turns=[]", "method.server_steps=null", "method.lora.rank=0")
BASELINES = {
    "prefixes in the server's model": ONE_MODEL,
    "no distillation": ("method.client_model.distil=null",),
    "no steps at the server": ("method.server_steps=null",),
    "the server alone": ("method.server_steps.from_clients=false",),
}
SHORT = ("method.client_model.distil.steps=10", "method.server_steps.steps=2", "run.rounds=2", "run.local_steps=4")
