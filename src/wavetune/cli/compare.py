"""`wavetune compare`: a recipe beside its baselines."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wavetune.cli.folders import named_after
from wavetune.cli.options import RecipeName, Rounds, TrainingChanges
from wavetune.cli.preflight import check
from wavetune.cli.run import chosen_recipe
from wavetune.console import Console
from wavetune.logs import LOG

if TYPE_CHECKING:
    from wavetune.recipe import Recipe


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
    from wavetune.recipes import require_methods

    chosen = chosen_recipe(recipe, changes, rounds, None)
    folder = out or _folder_of(chosen)
    check(out=folder)
    wanted = methods.split(",") if methods else None
    require_methods(chosen.name, wanted)
    LOG.info("loading PyTorch and transformers")
    from rich.table import Column, Table

    from wavetune.comparison import DIRECTIONS, rows_of
    from wavetune.comparison import compare as run_all
    from wavetune.estimate import caution
    from wavetune.reporting.html import write_report
    from wavetune.terminal import RunDisplay

    console = Console(highlight=False)
    try:
        with RunDisplay() as display:
            found = run_all(chosen, wanted, seeds, folder, display.message, display)
    except KeyboardInterrupt:
        LOG.warning("stopped; the same command goes on where it stopped")
        raise
    for title, differences in (("means", False), ("differences", True)):
        heading, *rows = rows_of(found, differences)
        table = Table(heading[0], *(Column(name, justify="right") for name in heading[1:]), show_lines=True)
        table.title = f"{chosen.name}: {title} over {seeds} seed{'s' * (seeds > 1)}, 95 % intervals"
        for row in rows:
            table.add_row(*row)
        if len(heading) > 1:
            console.print(table)
    console.print(f"{DIRECTIONS} {caution(seeds)}".rstrip(), soft_wrap=True)
    first = [folder / f"{method}-seed{chosen.run.seed}" for method in found["methods"]]
    report = write_report([path for path in first if path.exists()], folder / "report.html")
    console.print(
        f"All numbers: {folder / 'comparison.json'}", f"Page: {folder / 'comparison.md'}", sep="\n", soft_wrap=True
    )
    console.print(f"Side by side, first seed: {report}", soft_wrap=True)


def _folder_of(recipe: Recipe) -> Path:
    """`runs/RECIPE-comparison`, or, beside comparisons of other settings, the first such name with a number."""
    from wavetune.runtimes.continued import is_free_or_of

    named = Path("runs") / f"{named_after(recipe.name)}-comparison"
    folders = (named if number == 1 else named.with_name(f"{named.name}-{number}") for number in count(1))
    return next(folder for folder in folders if is_free_or_of(folder, recipe))
