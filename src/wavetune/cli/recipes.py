"""`wavetune recipes` and `wavetune show`."""

import json
from typing import Annotated

import typer

from wavetune.cli.json_output import result, wants_json
from wavetune.cli.options import RecipeName, TrainingChanges
from wavetune.cli.read_recipe import read_recipe
from wavetune.console import echo
from wavetune.errors import ConfigError


def recipes() -> None:
    """List the recipes."""
    from wavetune.recipes import names, title

    result([{"name": name, "title": title(name)} for name in names()])
    width = max(map(len, names()))
    for name in names():
        echo(f"{name:{width}s}  {title(name)}")


def show(
    recipe: RecipeName,
    changes: TrainingChanges,
    yaml: Annotated[bool, typer.Option("--yaml", help="As YAML, to write comments into.")] = False,
) -> None:
    """Print a recipe with all its fields, as JSON or YAML that `wavetune run` takes."""
    from wavetune.api.yaml_values import as_yaml

    values = read_recipe(recipe, changes).to_dict()
    if yaml and wants_json():
        raise ConfigError("--yaml and --json exclude each other; give one of them")
    result(values)
    if not wants_json():
        echo(as_yaml(values) if yaml else json.dumps(values, indent=2))
