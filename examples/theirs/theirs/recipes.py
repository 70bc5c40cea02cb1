"""Recipes of somebody else's: `theirs.recipes:mine` is one."""

from __future__ import annotations

from dataclasses import replace

from theirs.filters import Scores
from theirs.mixing import Damped
from wavetune import recipes
from wavetune.recipe import Recipe


def mine() -> Recipe:
    """The recipe `fedavg_lora` whose server weighs updates by agreement and goes part of the way, with momentum."""
    base = recipes.get("fedavg_lora")
    parts = {"filters": (Scores(),), "mixing": Damped(momentum=0.5)}
    return replace(base, method=replace(base.method, title="Federated LoRA, weighed by agreement", **parts))


# What `wavetune compare theirs.recipes:mine` runs beside it, and what `--model tiny` begins from.
BASELINES = {"plain averaging": ("method.filters=[]", "method.mixing=average_factors")}
SHORT = ("run.rounds=2", "world.data.train_samples=120")
