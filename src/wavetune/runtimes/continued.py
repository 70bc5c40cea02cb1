"""What goes on in a folder, such as a sweep or a comparison, is what was begun there, as of the day it was begun."""

from dataclasses import replace
from datetime import date
from pathlib import Path

from wavetune.errors import JsonError
from wavetune.json_reader import read_json
from wavetune.recipe import Recipe


def as_begun(recipe: Recipe, kept: Path) -> Recipe:
    """The recipe with the day that its chat template is written as of, where it names none.

    Args:
        recipe: as it was given.
        kept: file with the recipe of what was begun, by itself or as `recipe`; its day is taken, else today.
    """
    data = recipe.world.data
    if not data.template.leaves_the_day:
        return recipe
    template = data.template.dated(_day_in(kept) or date.today().isoformat())
    return replace(recipe, world=replace(recipe.world, data=replace(data, template=template)))


def _day_in(kept: Path) -> str | None:
    try:
        values = read_json(kept)
        day = values.get("recipe", values)["world"]["data"]["template"]["date"]
    except (JsonError, KeyError, TypeError, AttributeError):
        return None
    return day if isinstance(day, str) else None
