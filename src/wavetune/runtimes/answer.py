"""Answer a prompt from a run folder, or say its class."""

from __future__ import annotations

from pathlib import Path

import torch

from wavetune.data.classes import frame
from wavetune.data.examples import Example
from wavetune.data.templates import encode, prompt_ids
from wavetune.errors import RunFolderError
from wavetune.models.adapter_folder import is_adapter_folder
from wavetune.models.backbone import load_tokenizer
from wavetune.models.generate import generate, load_for_generation
from wavetune.models.resolve import resolve_model
from wavetune.models.restore import PooledModel
from wavetune.recipe import load


def answer(
    run_dir: Path, prompt: str, client: int | None, base: bool, max_new_tokens: int, temperature: float, seed: int
) -> str:
    """The run's model on a prompt, written as the run's template writes prompts; the classes of a classifier.

    Raises RunFolderError.
    """
    if not (run_dir / "recipe.json").exists():
        raise RunFolderError(f"{run_dir} holds no run (no recipe.json); name a folder that `wavetune run` wrote")
    recipe = load(run_dir / "recipe.json")
    adapter = None if base else _adapter(run_dir / "adapters", client)
    folder = resolve_model(recipe.world.model).folder
    tokenizer = load_tokenizer(folder)
    data = recipe.world.data
    if data.template.kind == "class" and base:
        raise RunFolderError(f"{run_dir} trained a classifier, whose base knows no classes; leave out --base")
    model = load_for_generation(folder, adapter)
    if isinstance(model, PooledModel):
        before, after = frame(tokenizer)
        text = encode(tokenizer, [prompt])[0][: data.max_tokens - len(before) - len(after)]
        return _classes(model, before + text + after)
    ids = prompt_ids([Example(prompt, "", "")], tokenizer, data.template)
    return generate(model, tokenizer, ids, max_new_tokens, temperature, seed)[0]


@torch.no_grad()
def _classes(model: PooledModel, ids: list[int]) -> str:
    """Classes of a text with their probabilities, the likeliest first."""
    chances = model(torch.tensor([ids])).softmax(-1)[0]
    order = chances.argsort(descending=True).tolist()
    return ", ".join(f"{model.labels[i] if model.labels else i} {float(chances[i]):.3f}" for i in order)


def _adapter(adapters: Path, client: int | None) -> Path:
    found = sorted(p.name for p in adapters.glob("*") if is_adapter_folder(p))
    wanted = "global" if client is None else f"client-{client:02d}"
    if wanted not in found:
        have = f"there are {', '.join(found)}" if found else "the run has not finished; continue it with --resume"
        raise RunFolderError(f"{adapters} has no adapter {wanted}: {have}")
    return adapters / wanted
