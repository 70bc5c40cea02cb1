"""`wavetune compare`: a recipe beside its baselines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wavetune.cli.json_output import result
from wavetune.cli.options import RecipeName, Rounds, TrainingChanges
from wavetune.cli.run import chosen_recipe
from wavetune.console import Console
from wavetune.logs import LOG

if TYPE_CHECKING:
    from wavetune.api.compare import Comparison


def compare(
    recipe: RecipeName,
    changes: TrainingChanges,
    rounds: Rounds = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds a method is run with.")] = 3,
    methods: Annotated[str | None, typer.Option(help="Baselines to run, with commas; all by default.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder; runs/RECIPE-comparison, with a number if taken, by default. Run again to go on."),
    ] = None,
) -> None:
    """Run a recipe and its baselines on the same data, model and seeds, and lay them side by side.

    For example: wavetune compare sflllm --model tiny --rounds 2 --seeds 3
    """
    chosen = chosen_recipe(recipe, changes, rounds, None)
    from wavetune.api.compare import compare as run_all
    from wavetune.terminal import RunDisplay

    try:
        with RunDisplay() as display:
            found = run_all(chosen, seeds=seeds, methods=methods, out=out, display=display)
    except KeyboardInterrupt:
        LOG.warning("stopped; the same command goes on where it stopped")
        raise
    result(found.table)
    _show(chosen.name, found, seeds)


def _show(name: str, found: Comparison, seeds: int) -> None:
    from rich.table import Column, Table

    from wavetune.comparison import DIRECTIONS
    from wavetune.estimate import caution

    console = Console(highlight=False)
    for title, differences in (("means", False), ("differences", True)):
        heading, *rows = found.rows(differences)
        table = Table(heading[0], *(Column(name, justify="right") for name in heading[1:]), show_lines=True)
        table.title = f"{name}: {title} over {seeds} seed{'s' * (seeds > 1)}, 95 % intervals"
        for row in rows:
            table.add_row(*row)
        if len(heading) > 1:
            console.print(table)
    console.print(f"{DIRECTIONS} {caution(seeds)}".rstrip(), soft_wrap=True)
    folder = found.folder
    console.print(
        f"All numbers: {folder / 'comparison.json'}", f"Page: {folder / 'comparison.md'}", sep="\n", soft_wrap=True
    )
    console.print(f"Side by side, first seed: {found.report}", soft_wrap=True)
