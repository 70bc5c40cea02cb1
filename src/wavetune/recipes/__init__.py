"""Recipes: one module a system, each with a function `recipe()` that returns a typed value."""

from __future__ import annotations

import importlib
import pkgutil
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


def short_form(name: str) -> tuple[str, ...]:
    """Settings that make a recipe short enough for a try-out; none where it is short already, or the name is none."""
    return getattr(importlib.import_module(f"{__name__}.{name}"), "SHORT", ()) if name in names() else ()


def title(name: str) -> str:
    """One line on what a recipe does."""
    return get(name).method.title
