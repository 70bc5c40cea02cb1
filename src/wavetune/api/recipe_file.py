"""Recipes as files of JSON, YAML or TOML: whole, or a base and what differs from it. TOML knows no null."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wavetune import recipes
from wavetune.errors import ConfigError, JsonError, one_line
from wavetune.json_reader import read_json, read_text
from wavetune.recipe import Recipe, from_dict, load, with_settings

ENDINGS = (".json", ".yaml", ".yml", ".toml")
_DEEPEST = 20  # files that name each other as their base
_ROW = {"world", "method"}


def read_base(name: str, depth: int = 0) -> tuple[str, Recipe, tuple[str, ...]]:
    """The name of a recipe that a name or file begins from (empty for a whole file), that recipe, and what is changed.

    A file with `base` holds only what differs, nested or by dotted paths; a base may be another such file, whose path
    is taken from where the file is. Raises ConfigError naming the file.
    """
    if recipes.is_name(name):
        return name, recipes.get(name), ()
    path = Path(name)
    values = _read(path)
    if "base" not in values:
        if values.keys() & _ROW == _ROW:
            return "", load(path) if path.suffix == ".json" else _whole(values, path), ()
        raise ConfigError(f"{path} is no whole recipe; say what it begins from, such as base: sflllm, or write all")
    if depth == _DEEPEST:
        raise ConfigError(f"{path}: more than {_DEEPEST} files name each other as their base; break the circle")
    given = values.pop("base")
    if not isinstance(given, str):
        raise ConfigError(f"{path}: base must be the name of a recipe or file, not {given!r}")
    if not given.endswith(ENDINGS):
        recipes.require_known(given)
    base, begun, first = read_base(str(path.parent / given) if given.endswith(ENDINGS) else given, depth + 1)
    own = values.pop("name", None)
    asked = tuple(_settings(values, path))
    changed = (*first, *asked)
    if own is not None:
        changed = (*changed, f"name={json.dumps(own)}")
    try:
        with_settings(begun, changed, asked)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return base, begun, changed


def _whole(values: Mapping[str, Any], path: Path) -> Recipe:
    try:
        return from_dict(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _read(path: Path) -> dict[str, Any]:
    """The mapping that a file holds. Raises ConfigError with the line where it breaks its grammar."""
    try:
        found = read_json(path, finite=False) if path.suffix == ".json" else _parsed(read_text(path), path.suffix)
    except JsonError as error:
        raise ConfigError(f"cannot read a recipe from {path}: {error.reason}") from None
    except (RecursionError, ValueError) as error:
        raise ConfigError(f"cannot read a recipe from {path}: {one_line(error)}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{path} does not hold a recipe: expected a mapping of fields")
    return found


def _parsed(text: str, suffix: str) -> Any:
    """What a text of TOML or YAML holds. Raises ValueError."""
    if suffix == ".toml":
        import tomllib

        return tomllib.loads(text)
    from wavetune.api.yaml_values import read_yaml

    return read_yaml(text)


def _settings(values: Mapping[str, Any], file: Path, path: str = "") -> Iterator[str]:
    """`path=value` for each value of nested mappings, the kind of a part before its fields."""
    for name, value in sorted(values.items(), key=lambda entry: entry[0] != "kind"):
        here = f"{path}.{name}" if path else str(name)
        if isinstance(value, Mapping) and value:
            yield from _settings(value, file, here)
            continue
        try:
            yield f"{here}={json.dumps(value, allow_nan=False)}"
        except (TypeError, ValueError):
            raise ConfigError(f"{file}: {here} holds {value!r}; give a number, a text, true, false or a list") from None
