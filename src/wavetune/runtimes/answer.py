"""Answer a prompt from a run folder, or say its class."""

from pathlib import Path

import torch

from wavetune.data.classes import frame
from wavetune.data.examples import Example
from wavetune.data.pieces import encode
from wavetune.data.templates import ends_of, prompt_ids
from wavetune.models.backbone import load_tokenizer
from wavetune.models.generate import generate, load_for_generation
from wavetune.models.resolve import resolve_model
from wavetune.models.restore import PooledModel
from wavetune.runtimes.adapters import adapter_of, recipe_of


def answer(
    run_dir: Path, prompt: str, client: int | None, base: bool, max_new_tokens: int, temperature: float, seed: int
) -> str:
    """The run's model on a prompt, written as the run's template writes prompts; the classes of a classifier.

    Raises RunFolderError.
    """
    recipe, adapter = recipe_of(run_dir), adapter_of(run_dir, client, base)
    folder = resolve_model(recipe.world.model).folder
    tokenizer = load_tokenizer(folder)
    data = recipe.world.data
    model = load_for_generation(folder, adapter, adapters=recipe.method.adapters)
    if isinstance(model, PooledModel):
        before, after = frame(tokenizer)
        text = encode(tokenizer, [prompt])[0][: data.max_tokens - len(before) - len(after)]
        return _classes(model, before + text + after)
    ids = prompt_ids([Example(prompt, "", "")], tokenizer, data.template)
    ends = ends_of(data.template, tokenizer)
    return generate(model, tokenizer, ids, max_new_tokens, temperature, seed, ends)[0]


@torch.no_grad()
def _classes(model: PooledModel, ids: list[int]) -> str:
    """Classes of a text with their probabilities, the likeliest first."""
    chances = model(torch.tensor([ids])).softmax(-1)[0]
    order = chances.argsort(descending=True).tolist()
    return ", ".join(f"{model.labels[i] if model.labels else i} {float(chances[i]):.3f}" for i in order)
