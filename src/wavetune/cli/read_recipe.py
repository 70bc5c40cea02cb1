"""The recipe that a command means: its name or file, with the fields that options change."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from wavetune.cli.options import Changes, Tables
from wavetune.errors import ConfigError, JsonError
from wavetune.json_reader import read_json

if TYPE_CHECKING:
    from wavetune.recipe import Recipe


def name_of(recipe: str | None) -> str:
    """The name as given; ConfigError with all names where none is."""
    from wavetune.recipes import names

    if recipe is None:
        raise ConfigError("no recipe given; choose one of " + ", ".join(names()))
    return recipe


def require_readable(name: str) -> None:
    """ConfigError unless this can be a recipe's name, or a JSON file, before anything is imported to read it."""
    from wavetune.recipes import is_name, require_known

    if is_name(name):
        return
    if Path(name).is_dir():
        raise ConfigError(f"{name} is a folder, not a recipe; name a JSON file, such as a run folder's recipe.json")
    if Path(name).exists() and not name.endswith(".json"):
        raise ConfigError(
            f"{name} does not end in .json: recipes are read from JSON alone, as `wavetune show RECIPE` writes it"
        )
    if not name.endswith(".json"):
        require_known(name)


def require_unchanged(
    options: Mapping[str, object], continues: str = "a run continues with the recipe in its folder"
) -> None:
    """What an option cannot change any more with --resume: ConfigError naming the first of these that is given."""
    for name, value in options.items():
        if value is not None:
            raise ConfigError(f"{name} does not go with --resume: {continues}")


def read_recipe(name: str, changes: Changes, tables: Tables | None = None, more: tuple[str, ...] = ()) -> Recipe:
    """A recipe by its name or JSON file, with the fields that options and the settings `more` set; options win.

    Of data of one's own all rows are trained on, unless a setting or the recipe's file says how many. With --model and
    a tiny model of random weights, a recipe that is long for what that can learn begins from its short form.
    """
    require_readable(name)
    from wavetune import recipes
    from wavetune.recipe import load, with_settings

    chosen = recipes.get(name) if recipes.is_name(name) else load(Path(name))
    device = getattr(changes, "device", None)
    short = {
        "world.data.source": changes.data,
        "world.model": changes.model,
        "run.seed": changes.seed,
        "run.device": None if device is None else device.value,
    }
    assignments = [f"{path}={json.dumps(value)}" for path, value in short.items() if value is not None]
    settings = [*(changes.settings or []), *more]
    first = list(recipes.short_form(name)) if _is_try_out(changes.model) else []
    if recipes.is_name(name) and _own_data(settings, changes.data):
        first.append("world.data.train_samples=null")
    chosen = with_settings(chosen, [*first, *settings, *assignments])
    return chosen if tables is None else _with_tables(chosen, tables)


def _with_tables(chosen: Recipe, tables: Tables) -> Recipe:
    if tables.rank_table is not None:
        chosen = replace(chosen, method=replace(chosen.method, rounds_to_target=_read_rank_table(tables.rank_table)))
    if tables.codec_table is not None:
        from wavetune.federation.codec_choice import read_candidates

        method = replace(chosen.method, choose_codecs=True, codec_candidates=read_candidates(tables.codec_table))
        chosen = replace(chosen, method=method)
    return chosen


def _is_try_out(model: str | None) -> bool:
    """Whether a model is one of the tiny ones that know no language."""
    from wavetune.models.resolve import BUNDLED
    from wavetune.models.tiny import NOTE

    return model in BUNDLED and BUNDLED[model].note == NOTE


def _own_data(settings: list[str], data: str | None) -> bool:
    """Whether the options name data that is not built in."""
    from wavetune.data.source import EMBEDDED

    named = [
        text for path, equals, text in (s.partition("=") for s in settings) if path == "world.data.source" and equals
    ]
    sources = [*named, *([] if data is None else [data])]
    return bool(sources) and sources[-1].strip().strip('"') not in EMBEDDED


def _read_rank_table(path: Path) -> dict[int, float]:
    try:
        values = read_json(path)["rounds_to_target"]
        return {int(rank): float(rounds) for rank, rounds in values.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = error.reason if isinstance(error, JsonError) else error
        raise ConfigError(
            f"cannot read a rank table from {path} ({reason}); `wavetune measure-ranks` writes one"
        ) from None


def refuse_beside_instance(changes: Changes, tables: Tables) -> None:
    """ConfigError naming the first option given that changes recipes: a plan instance has nothing for it to change."""
    for name, value in {**changes.named(), **tables.named()}.items():
        if value is not None:
            raise ConfigError(f"{name} does not go with a plan instance, which says everything itself; change the file")


def is_instance(what: str) -> bool:
    """Whether a command is given a JSON file with the instance of a plan, rather than a recipe."""
    if not what.endswith(".json"):
        return False
    try:
        return "world" not in read_json(what, finite=False)
    except (JsonError, TypeError):
        return True
