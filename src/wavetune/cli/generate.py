"""`wavetune generate`: an answer of a trained adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wavetune.console import echo_answer
from wavetune.logs import LOG


def generate(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run folder.")],
    prompt: Annotated[str, typer.Option(help="What the model is given.")],
    client: Annotated[
        int | None, typer.Option(min=0, help="Use this client's adapter instead of the global one.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 64,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token each time.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    base: Annotated[bool, typer.Option("--base", help="Answer with the untouched model.")] = False,
) -> None:
    """Answer a prompt with a trained adapter.

    For example: wavetune generate runs/sflllm --client 2 --prompt "name[Aromi], eatType[pub]"
    """
    from wavetune.runtimes.adapters import adapter_of

    adapter_of(run_dir, client, base)
    LOG.info("loading PyTorch and transformers")
    from wavetune.runtimes.answer import answer

    echo_answer(answer(run_dir, prompt, client, base, max_new_tokens, temperature, seed))
