"""`wavetune recipes` and `wavetune show`."""

from __future__ import annotations

import json

from wavetune.cli.options import RecipeName, TrainingChanges
from wavetune.cli.read_recipe import read_recipe
from wavetune.console import echo


def recipes() -> None:
    """List the recipes."""
    from wavetune.recipes import names, title

    width = max(map(len, names()))
    for name in names():
        echo(f"{name:{width}s}  {title(name)}")


def show(recipe: RecipeName, changes: TrainingChanges) -> None:
    """Print a recipe with all its fields, as JSON that `wavetune run` takes."""
    from wavetune.recipe import to_dict

    echo(json.dumps(to_dict(read_recipe(recipe, changes)), indent=2))
