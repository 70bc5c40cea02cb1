"""The recipe that a command means: its name or file, with the fields that options change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from wavetune.cli.options import Changes, Tables
from wavetune.errors import ConfigError

if TYPE_CHECKING:
    from wavetune.recipe import Recipe


def name_of(recipe: str | None) -> str:
    """The name as given; ConfigError with all names where none is."""
    from wavetune.recipes import names

    if recipe is None:
        raise ConfigError("no recipe given; choose one of " + ", ".join(names()))
    return recipe


def require_unchanged(
    options: Mapping[str, object], continues: str = "a run continues with the recipe in its folder"
) -> None:
    """What an option cannot change any more with --resume: ConfigError naming the first of these that is given."""
    for name, value in options.items():
        if value is not None:
            raise ConfigError(f"{name} does not go with --resume: {continues}")


def read_recipe(name: str, changes: Changes, tables: Tables | None = None, more: tuple[str, ...] = ()) -> Recipe:
    """A recipe by its name or file, with the fields that options and the settings `more` set; options win."""
    from wavetune.api.recipe import recipe

    device = getattr(changes, "device", None)
    return recipe(
        name,
        *(changes.settings or []),
        *more,
        data=changes.data,
        model=changes.model,
        seed=changes.seed,
        device=None if device is None else device.value,
        rank_table=None if tables is None else tables.rank_table,
        codec_table=None if tables is None else tables.codec_table,
    )


def refuse_beside_instance(changes: Changes, tables: Tables) -> None:
    """ConfigError naming the first option given that changes recipes: a plan instance has nothing for it to change."""
    for name, value in {**changes.named(), **tables.named()}.items():
        if value is not None:
            raise ConfigError(f"{name} does not go with a plan instance, which says everything itself; change the file")
