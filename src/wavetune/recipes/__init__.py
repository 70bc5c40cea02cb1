"""Recipes: one module a system, each with a function `recipe()` that returns a typed value."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from typing import TYPE_CHECKING

from wavetune.errors import ConfigError, nearest

if TYPE_CHECKING:
    from wavetune.recipe import Recipe


def names() -> list[str]:
    """Names of all recipes."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def require_known(name: str) -> None:
    """ConfigError with the nearest names unless there is a recipe of this name."""
    if name not in names():
        raise ConfigError(f"no recipe is called {name!r}; {nearest(name, names())}")


def get(name: str) -> Recipe:
    """The recipe of a name. Raises ConfigError with the nearest names."""
    require_known(name)
    return importlib.import_module(f"{__name__}.{name}").recipe()


PROPOSED = "proposed"  # what a comparison calls the recipe itself


def names_with_baselines() -> list[str]:
    """Recipes that can be compared with baselines of their own."""
    return [name for name in names() if getattr(importlib.import_module(f"{__name__}.{name}"), "BASELINES", None)]


def baselines_of(name: str) -> dict[str, tuple[str, ...]]:
    """Settings that make each of a recipe's baselines of it. Raises ConfigError if the recipe names none."""
    found = names_with_baselines()
    if name not in found:
        raise ConfigError(f"recipe {name!r} has no baselines to compare with; {nearest(name, found)}")
    return dict(importlib.import_module(f"{__name__}.{name}").BASELINES)


def require_methods(name: str, methods: Sequence[str] | None) -> None:
    """ConfigError unless all of these are the recipe itself or baselines of it."""
    known = (PROPOSED, *baselines_of(name))
    for method in methods or ():
        if method not in known:
            raise ConfigError(f"--methods has {method!r}; {nearest(method, known)}")


def short_form(name: str) -> tuple[str, ...]:
    """Settings that make a recipe short enough for a try-out; none where it is short already, or the name is none."""
    return getattr(importlib.import_module(f"{__name__}.{name}"), "SHORT", ()) if name in names() else ()


def title(name: str) -> str:
    """One line on what a recipe does."""
    return get(name).method.title
