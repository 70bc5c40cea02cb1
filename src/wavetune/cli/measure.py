"""`wavetune measure-ranks` and `wavetune measure-codecs`: tables for the planner."""

import json
from pathlib import Path
from typing import Annotated

import typer

from wavetune.api.folders import write
from wavetune.api.preflight import check_writable
from wavetune.cli.json_output import result
from wavetune.cli.options import RecipeName, Repeats, TrainingChanges
from wavetune.cli.run import chosen_recipe
from wavetune.console import echo
from wavetune.errors import ConfigError
from wavetune.logs import LOG


def measure_ranks(
    recipe: RecipeName,
    changes: TrainingChanges,
    ranks: Annotated[str, typer.Option(help="Ranks to train at, separated by commas.")] = "1,2,4,8",
    target_loss: Annotated[
        float | None, typer.Option(help="Validation loss to reach; by default the least that every rank reached.")
    ] = None,
    seeds: Repeats = 1,
    out: Annotated[Path, typer.Option(help="Table to write.")] = Path("rank-table.json"),
) -> None:
    """Train at each rank and write how many rounds each needs to a target loss, for the planner.

    Runs that ended are kept beside the table, in OUT.runs.jsonl: the same command goes on after them.
    """
    wanted, chosen = _ranks(ranks), chosen_recipe(recipe, changes, None, None)
    check_writable(out.parent)
    LOG.info("loading PyTorch and transformers")
    from wavetune.measure_ranks import measure

    table = measure(chosen, wanted, target_loss, seeds, _kept(out))
    write(out, json.dumps(table, indent=1))
    result(table)
    echo(f"wrote {out}; plan with it: wavetune plan {recipe} --rank-table {out}")


def measure_codecs(
    recipe: RecipeName,
    changes: TrainingChanges,
    codecs: Annotated[
        str,
        typer.Option(help="Codecs at the cut, separated by commas: KIND[:SETTING=VALUE], or one each way as UP/DOWN."),
    ] = "fp32,bf16,int8",
    seeds: Repeats = 1,
    out: Annotated[Path, typer.Option(help="Table to write.")] = Path("codec-table.json"),
) -> None:
    """Train with each codec at the cut and write what it costs in rounds to a target loss, for the planner.

    Runs that ended are kept beside the table, in OUT.runs.jsonl: the same command goes on after them.
    """
    chosen = chosen_recipe(recipe, changes, None, None)
    check_writable(out.parent)
    LOG.info("loading PyTorch and transformers")
    from wavetune.measure_codecs import candidates_of, measure

    table = measure(chosen, candidates_of(codecs), seeds, _kept(out))
    write(out, json.dumps(table, indent=1))
    result(table)
    echo(f"wrote {out}; plan with it: wavetune plan {recipe} --codec-table {out}")


def _kept(out: Path) -> Path:
    out.parent.mkdir(parents=True, exist_ok=True)
    return out.with_name(out.name + ".runs.jsonl")


def _ranks(text: str) -> list[int]:
    try:
        ranks = [int(part) for part in text.split(",")]
    except ValueError:
        ranks = []
    if not ranks or min(ranks) < 1:
        raise ConfigError(
            f"--ranks is {text!r} but must be whole numbers of at least 1 separated by commas, such as 1,2,4,8"
        )
    return sorted(set(ranks))
