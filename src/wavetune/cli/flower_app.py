"""`wavetune flower-app`: a recipe as an app that `flwr run` takes, and what that app's server does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wavetune.api.folders import named_after
from wavetune.cli.options import RecipeName, TrainingChanges
from wavetune.cli.run import chosen_recipe, train
from wavetune.console import echo
from wavetune.errors import RunFolderError

if TYPE_CHECKING:
    from flwr.app import Context
    from flwr.serverapp import Grid

    from wavetune.recipe import Recipe


def flower_app(
    recipe: RecipeName,
    changes: TrainingChanges,
    out: Annotated[Path | None, typer.Option(help="Folder of the app; RECIPE-app by default.")] = None,
    public: Annotated[
        str | None, typer.Option(help="HOST:PORT under which devices reach the servers of a split recipe.")
    ] = None,
) -> None:
    """Write a recipe as a Flower app for `flwr run`."""
    from wavetune.runtimes.flower.app import write_app

    chosen = chosen_recipe(recipe, changes, None, None)
    folder = out or Path(f"{named_after(chosen.name)}-app")
    write_app(folder, chosen, {} if public is None else {"public-address": public})
    echo(f"wrote {folder}; start it with: flwr run {folder} NAME-OF-YOUR-SUPERLINK --stream")


def train_over(grid: Grid, context: Context, recipe: Path) -> None:
    """Train the recipe of an app with the nodes of its Grid, or continue the run in the app's `out`."""
    from wavetune.models import light_imports

    light_imports.install()  # the app has this process to itself
    from wavetune.recipe import load
    from wavetune.runtimes.flower.process import end_with_parent
    from wavetune.runtimes.flower.servers import FlowerSettings, flower_engine

    end_with_parent()
    configured, chosen = FlowerSettings.of(context.run_config), load(recipe)
    kept, finished = configured.out / "recipe.json", (configured.out / "summary.json").exists()
    resume = kept.exists()
    if resume and (finished or not _begun_as(load(kept), chosen)):
        which = "a finished" if finished else "another"
        raise RunFolderError(f"{configured.out} holds {which} run; choose a new folder: flwr run -c 'out=\"FOLDER\"'")
    train(None if resume else chosen, configured.out, flower_engine(grid, configured))


def _begun_as(kept: Recipe, asked: Recipe) -> bool:
    """Whether a run's own recipe, in which the template is settled, is that of the app."""
    from wavetune.part_values import values_of
    from wavetune.runtimes.inputs import differs, said

    begun, given = kept.world.data.template, asked.world.data.template
    if differs(said(given), values_of(begun), begun):
        return False
    data = replace(kept.world.data, template=given)
    return replace(kept, world=replace(kept.world, data=data)) == asked
