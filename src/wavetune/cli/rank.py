"""`wavetune rank` and `wavetune compare`: recipes on the same data, model, cell and seeds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wavetune.cli.json_output import result
from wavetune.cli.options import OtherRecipe, RecipeName, RecipeNames, TrainingChanges, Trials
from wavetune.cli.read_recipe import read_recipe
from wavetune.cli.run import chosen_recipe
from wavetune.console import Console
from wavetune.errors import ConfigError
from wavetune.logs import LOG
from wavetune.reporting.format import plural

if TYPE_CHECKING:
    from wavetune.api.rank import Ranking
    from wavetune.recipe import Recipe

Under = Annotated[str, typer.Option(metavar="NAME,...", help="Disturbances: outage, lost_devices; nothing for none.")]


def rank(
    changes: TrainingChanges,
    trials: Trials,
    recipes: RecipeNames = None,
    under: Under = "outage,lost_devices",
    evaluate_every: Annotated[
        int, typer.Option(min=1, help="Rounds between evaluations: how finely costs are known.")
    ] = 1,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder; runs/ranking, with a number if taken, by default. Run again to go on."),
    ] = None,
) -> None:
    """Rank recipes on the data, model and cell of the first: cost to a target, quality in budgets, disturbances.

    For example: wavetune rank sflllm fedavg_lora gossip --model tiny --rounds 4 --seeds 3
    """
    chosen = _each(recipes, changes, trials.rounds)
    from wavetune.api.rank import rank as run_all

    found = _played(
        partial(run_all, chosen, under=under, evaluate_every=evaluate_every, leave_out=not recipes, out=out),
        trials,
        chosen[0],
    )
    _show(found, "ranking", f"over {plural(trials.seeds, 'seed')}")


def compare(
    recipe: RecipeName,
    changes: TrainingChanges,
    trials: Trials,
    other: OtherRecipe = None,
    methods: Annotated[str | None, typer.Option(help="Baselines to run, with commas; all by default.")] = None,
    under: Under = "nothing",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder; runs/RECIPE-comparison, with a number if taken, by default. Run again to go on."),
    ] = None,
) -> None:
    """Run a recipe beside another, or its baselines, on the same data, model and seeds, and lay them side by side.

    For example: wavetune compare sflllm --model tiny --rounds 2 --seeds 3
    """
    chosen = chosen_recipe(recipe, changes, trials.rounds, None)
    beside = None if other is None else chosen_recipe(other, changes, trials.rounds, None)
    from wavetune.api.rank import compare as run_all

    found = _played(partial(run_all, chosen, beside, methods=methods, under=under, out=out), trials, chosen)
    _show(found, "comparison", f"of {chosen.name} over {plural(trials.seeds, 'seed')}")


def _each(named: list[str] | None, changes: TrainingChanges, rounds: int | None) -> list[Recipe]:
    """The recipes that are named; with none all of which the options are true, the default one first."""
    if named:
        return [chosen_recipe(name, changes, rounds, None) for name in named]
    from wavetune.recipes import names

    first = "sflllm"
    found = [chosen_recipe(first, changes, rounds, None)]
    more = () if rounds is None else (f"run.rounds={rounds}",)
    for name in names():
        try:
            found += [] if name == first else [read_recipe(name, changes, None, more)]
        except ConfigError as error:
            LOG.info(f"{name} is left out: {error}")
    return found


def _processes(jobs: int | None, recipe: Recipe) -> int:
    if jobs is not None:
        return jobs
    from wavetune.api.preflight import sees_gpu
    from wavetune.machine_memory import free_bytes
    from wavetune.workers import cores

    on_gpu = recipe.run.device != "cpu" and sees_gpu()
    return 1 if on_gpu else max(1, min(cores(), free_bytes() // _RUN_BYTES))


_RUN_BYTES = 4 * 2**30  # of a run of the default model, with room


def _played(run_all: Callable[..., Ranking], trials: Trials, first: Recipe) -> Ranking:
    from wavetune.terminal import RunDisplay

    try:
        with RunDisplay() as display:
            jobs = _processes(trials.jobs, first)
            return run_all(**trials.measures, jobs=jobs, callbacks=trials.track or "", display=display)
    except KeyboardInterrupt:
        LOG.warning("stopped; the same command goes on where it stopped")
        raise


def _show(found: Ranking, stem: str, of: str) -> None:
    from rich.table import Column, Table

    from wavetune.estimate import caution
    from wavetune.ranking.metrics import DIRECTIONS
    from wavetune.ranking.page import remarks

    result(found.table)
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_PIPED)
    for title, differences in (("means", False), ("differences", True)):
        heading, *rows = found.rows(differences)
        table = Table(heading[0], *(Column(name, justify="right") for name in heading[1:]), show_lines=True)
        table.title = f"{stem} {of}: {title}, 95 % intervals"
        for row in rows:
            table.add_row(*row)
        if len(heading) > 1:
            console.print(table)
    for line in (f"{DIRECTIONS} {caution(len(found.table['seeds']))}".rstrip(), *remarks(found.table)):
        console.print(line, soft_wrap=True)
    folder = found.folder
    for what, name in (("All numbers", f"{stem}.json"), ("Page", f"{stem}.md"), ("Figure", "figure.svg")):
        console.print(f"{what}: {folder / name}", soft_wrap=True)
    console.print(f"Side by side, first seed: {found.report}", soft_wrap=True)


_PIPED = 200  # columns where no terminal says how many there are
