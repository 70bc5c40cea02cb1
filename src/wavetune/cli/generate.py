"""`wavetune generate`: an answer of a trained adapter."""

from typing import Annotated

import typer

from wavetune.cli.json_output import result
from wavetune.cli.options import OneClient, RunDir
from wavetune.console import echo_answer


def generate(
    run_dir: RunDir,
    prompt: Annotated[str, typer.Option(help="What the model is given.")],
    client: OneClient = None,
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
    from wavetune.api.load_run import Run

    settings = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    answer = Run(run_dir).generate(prompt, client, base=base, **settings)
    result({"prompt": prompt, "client": client, "base": base, "answer": answer})
    echo_answer(answer)
