"""Recipes of somebody else's: `theirs.recipes:mine` is one."""

from __future__ import annotations

from dataclasses import replace

from theirs.mixing import Scores
from wavetune import recipes
from wavetune.recipe import Recipe


def mine() -> Recipe:
    """The recipe `fedavg_lora` with another mixing rule."""
    base = recipes.get("fedavg_lora")
    method = replace(base.method, title="Federated LoRA, weighed by agreement", mixing=Scores(chi=1.5))
    return replace(base, method=method)


# What `wavetune compare theirs.recipes:mine` runs beside it, and what `--model tiny` begins from.
BASELINES = {"plain averaging": ("method.mixing.kind=average_factors",)}
SHORT = ("run.rounds=2", "world.data.train_samples=120")
