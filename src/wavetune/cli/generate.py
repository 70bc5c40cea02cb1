"""`wavetune generate`: an answer of a trained adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wavetune.console import echo_answer
from wavetune.errors import ConfigError
from wavetune.logs import LOG


def generate(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run folder.")],
    prompt: Annotated[str, typer.Option(help="What the model is given.")],
    client: Annotated[
        int | None, typer.Option(min=0, help="Use this client's adapter instead of the global one.")
    ] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer; 64 by default.")] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="0, the default, takes the likeliest token each time.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the sampling, 0 by default.")] = None,
    base: Annotated[bool, typer.Option("--base", help="Answer with the untouched model.")] = False,
) -> None:
    """Answer a prompt with a trained adapter.

    For example: wavetune generate runs/sflllm --client 2 --prompt "name[Aromi], eatType[pub]"
    """
    from wavetune.runtimes.adapters import adapter_of, recipe_of

    if base and client is not None:
        raise ConfigError("--client does not go with --base: the untouched model is the same for all clients")
    adapter_of(run_dir, client, base)
    if recipe_of(run_dir).world.data.template.kind == "class":
        for name, value in {"max-new-tokens": max_new_tokens, "temperature": temperature, "seed": seed}.items():
            if value is not None:
                raise ConfigError(
                    f"--{name} has no effect: the run in {run_dir} trained a classifier, which writes no text"
                )
    if seed is not None and not temperature:
        raise ConfigError("--seed has no effect without --temperature above 0: the likeliest token is not drawn")
    LOG.info("loading PyTorch and transformers")
    from wavetune.runtimes.answer import answer

    echo_answer(answer(run_dir, prompt, client, base, max_new_tokens or 64, temperature or 0.0, seed or 0))
