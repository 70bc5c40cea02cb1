"""Recipes: one module a system, each with a function `recipe()` that returns a typed value.

Somebody else's recipe is named `package.module:function`.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import replace
from types import ModuleType
from typing import TYPE_CHECKING

from wavetune.errors import ConfigError, nearest
from wavetune.foreign import imported
from wavetune.guarded import line_of, told

if TYPE_CHECKING:
    from wavetune.recipe import Recipe


def names() -> list[str]:
    """Names of all recipes that wavetune brings along."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def is_name(name: str) -> bool:
    """Whether this can be the name of a recipe, wavetune's or somebody else's, rather than of its file."""
    return name in names() or (":" in name and not name.endswith(".json"))


def require_known(name: str) -> None:
    """ConfigError with the nearest names unless there can be a recipe of this name."""
    if not is_name(name):
        raise ConfigError(
            f"no recipe is called {name!r}; {nearest(name, names())} (or name your own as package.module:function)"
        )


def get(name: str) -> Recipe:
    """The recipe of a name. Raises ConfigError with the nearest names, or what is wrong with somebody else's."""
    require_known(name)
    if ":" not in name:
        return importlib.import_module(f"{__name__}.{name}").recipe()
    from wavetune.recipe import Recipe

    function = imported(name, "the recipe", "function")
    try:
        made = function()
    except Exception as error:  # whatever their code raises
        where = line_of(error, name.partition(":")[0])
        raise ConfigError(f"the recipe {name!r} failed{where}: {told(error)}") from error
    if not isinstance(made, Recipe):
        raise ConfigError(f"the recipe {name!r} returned {type(made).__name__}, not a wavetune.recipe.Recipe")
    return replace(made, name=name)


def _module(name: str) -> ModuleType | None:
    """The module of a recipe that can be found by its name, None where there is none (any more)."""
    try:
        place = name.partition(":")[0] if ":" in name else f"{__name__}.{name}"
        return importlib.import_module(place) if is_name(name) else None
    except ImportError:
        return None


PROPOSED = "proposed"  # what a comparison calls the recipe itself


def baselines_of(name: str) -> dict[str, tuple[str, ...]]:
    """Settings that make each of a recipe's own baselines of it; none where it names none."""
    return dict(getattr(_module(name), "BASELINES", {}))


def rival_of(name: str) -> str:
    """The recipe beside which one without baselines of its own is compared: plain averaging, or no federation."""
    return "centralised_lora" if name == "fedavg_lora" else "fedavg_lora"


def short_form(name: str) -> tuple[str, ...]:
    """Settings that make a recipe short enough for a try-out; none where it is short already, or the name is none."""
    return getattr(_module(name), "SHORT", ())


def title(name: str) -> str:
    """One line on what a recipe does."""
    return get(name).method.title
