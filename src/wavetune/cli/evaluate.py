"""`wavetune evaluate`: scores of a trained model on held-out or other rows."""

from typing import Annotated

import typer

from wavetune.cli.json_output import result
from wavetune.cli.options import DeviceName, OneClient, RunDir
from wavetune.console import Console, echo


def evaluate(
    run_dir: RunDir,
    data: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Rows to score: a folder or file, or a Hugging Face id; the run's held-out."),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="bleu, nist, meteor, rouge_l, cider, chrf, exact_match, perplexity, MODULE:FUNCTION; of classes "
            "accuracy, macro_f1. All but meteor by default.",
        ),
    ] = None,
    client: OneClient = None,
    base: Annotated[bool, typer.Option("--base", help="Score the untouched model.")] = False,
    prompts: Annotated[int, typer.Option(min=1, help="Distinct prompts to answer at most, drawn at random.")] = 256,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 128,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token each time.")] = 0.0,
    beams: Annotated[int, typer.Option(min=1, max=64, help="Answers followed at once in beam search.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draw of prompts and of sampling.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts answered at once.")] = 16,
    device: DeviceName = None,
) -> None:
    """Score a run's model: its answers beside the references, its perplexity, or its classes.

    For example: wavetune evaluate runs/sflllm --data e2e/test.jsonl --metrics bleu,rouge_l
    """
    from wavetune.api.load_run import Run

    found = Run(run_dir).evaluate(
        data,
        metrics or (),
        client,
        base=base,
        prompts=prompts,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        beams=beams,
        seed=seed,
        batch_size=batch_size,
        device="auto" if device is None else device.value,
    )
    result(found)
    _show(found)


def _show(found: dict[str, object]) -> None:
    from rich.table import Table

    scores, libraries = found["scores"], found["libraries"]
    assert isinstance(scores, dict)
    assert isinstance(libraries, dict)
    echo(f"{found['prompts']} prompts of {found['data']} ({found['part']} rows), {found['rows']} references")
    table = Table()
    table.add_column("metric")
    table.add_column("score", justify="right")
    table.add_column("computed by")
    for name, value in scores.items():
        table.add_row(name, "undefined" if value is None else f"{value:.4g}", libraries.get(name, "wavetune"))
    Console(highlight=False).print_table(table)
    echo(f"wrote {found['folder']}")
