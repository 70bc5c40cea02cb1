"""Federated prompt tuning: clients train vectors before their texts, and these alone are averaged.

Source: prompt tuning, arXiv 2104.08691; federated as in the survey 2409.15723. Defaults are our own.
"""

from dataclasses import replace

from wavetune.federation.adapters.soft_prompt import SoftPrompt
from wavetune.federation.method import Lora
from wavetune.recipe import Recipe
from wavetune.recipes import fedavg_lora
from wavetune.recipes.sflllm import OPTIMISER


def recipe() -> Recipe:
    """The job of `fedavg_lora` with a soft prompt of 20 vectors in the place of LoRA."""
    title = "Federated prompt tuning: only vectors before the text are trained, sent and averaged"
    optimiser = replace(OPTIMISER, learning_rate=1e-2, weight_decay=0.0)
    return fedavg_lora.like("prompts", title, lora=Lora(rank=0), soft_prompt=SoftPrompt(), optimiser=optimiser)


BASELINES = {"LoRA of rank 1": ("method.soft_prompt=null", "method.lora.rank=1", "method.optimiser.learning_rate=2e-3")}
