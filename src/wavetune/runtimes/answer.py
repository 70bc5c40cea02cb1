"""Answer a prompt from a run folder."""

from __future__ import annotations

from pathlib import Path

from wavetune.data.examples import Example
from wavetune.data.templates import prompt_ids
from wavetune.errors import RunFolderError
from wavetune.models.backbone import load_tokenizer
from wavetune.models.generate import generate, load_for_generation
from wavetune.models.resolve import resolve_model
from wavetune.recipe import load


def answer(
    run_dir: Path, prompt: str, client: int | None, base: bool, max_new_tokens: int, temperature: float, seed: int
) -> str:
    """The run's model on a prompt, written as the run's template writes prompts. Raises RunFolderError."""
    if not (run_dir / "recipe.json").exists():
        raise RunFolderError(f"{run_dir} holds no run (no recipe.json); name a folder that `wavetune run` wrote")
    recipe = load(run_dir / "recipe.json")
    adapter = None if base else _adapter(run_dir / "adapters", client)
    folder = resolve_model(recipe.world.model).folder
    tokenizer = load_tokenizer(folder)
    ids = prompt_ids([Example(prompt, "", "")], tokenizer, recipe.world.data.template)
    model = load_for_generation(folder, adapter)
    return generate(model, tokenizer, ids, max_new_tokens, temperature, seed)[0]


def _adapter(adapters: Path, client: int | None) -> Path:
    found = sorted(p.name for p in adapters.glob("*") if (p / "adapter_model.safetensors").exists())
    wanted = "global" if client is None else f"client-{client:02d}"
    if wanted not in found:
        have = f"there are {', '.join(found)}" if found else "the run has not finished; continue it with --resume"
        raise RunFolderError(f"{adapters} has no adapter {wanted}: {have}")
    return adapters / wanted
