"""Recipes as files of JSON, YAML or TOML: whole, or a base and what differs from it.

YAML is read as JSON with comments: no aliases, no tags, and `no` is a text. TOML knows no null.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

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
    base, begun, first = read_base(_place(given, path), depth + 1)
    own = values.pop("name", None)
    changed = (*first, *_settings(values, path))
    if own is not None:
        changed = (*changed, f"name={json.dumps(own)}")
    try:
        with_settings(begun, changed)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return base, begun, changed


def as_yaml(values: Mapping[str, Any]) -> str:
    """A recipe's values as YAML that `read_base` reads to the same."""
    text = yaml.dump(_plain(values), Dumper=_Writer, sort_keys=False, allow_unicode=True, width=110)
    return (
        f"# a whole recipe; a file with base: {values.get('name', 'NAME')} may hold only what differs\n{text}".rstrip()
    )


def _place(base: str, file: Path) -> str:
    return str(file.parent / base) if base.endswith(ENDINGS) else base


def _whole(values: Mapping[str, Any], path: Path) -> Recipe:
    try:
        return from_dict(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _read(path: Path) -> dict[str, Any]:
    """The mapping that a file holds. Raises ConfigError with the line where it breaks its grammar."""
    try:
        if path.suffix == ".json":
            found = read_json(path, finite=False)
        else:
            text = read_text(path)
            found = tomllib.loads(text) if path.suffix == ".toml" else yaml.load(text, Loader=_Reader)
    except JsonError as error:
        raise ConfigError(f"cannot read a recipe from {path}: {error.reason}") from None
    except (tomllib.TOMLDecodeError, yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"cannot read a recipe from {path}: {one_line(error)}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{path} does not hold a recipe: expected a mapping of fields")
    return found


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


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


class _Reader(yaml.SafeLoader):
    """YAML of plain values: every scalar that JSON would not know is a text; aliases and repeated names are refused."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

    def compose_node(self, parent: Any, index: Any) -> Any:
        """A node, which must be written where it stands."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"aliases such as *{self.peek_event().anchor} are not read; write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """A mapping whose names differ, as texts."""
        names = [str(self.construct_object(key, deep=True)) for key, _ in node.value]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise yaml.YAMLError(f"{twice} stands there twice{node.start_mark}")
        return dict(zip(names, (self.construct_object(value, deep=True) for _, value in node.value), strict=True))


class _Writer(yaml.SafeDumper):
    """Writes what `_Reader` reads to the same."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

    def ignore_aliases(self, data: Any) -> bool:
        """Write each value out."""
        return True


def _whole_number(_: Any, node: Any) -> int:
    return int(node.value)


def _number(_: Any, node: Any) -> float:
    return float(node.value)


_KINDS = {
    "tag:yaml.org,2002:null": (r"~|null|", ["~", "n", ""]),
    "tag:yaml.org,2002:bool": (r"true|false", list("tf")),
    "tag:yaml.org,2002:int": (r"[-+]?[0-9]+", list("-+0123456789")),
    "tag:yaml.org,2002:float": (r"[-+]?([0-9]+\.[0-9]*|\.?[0-9]+)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
}
for kind, (pattern, starts) in _KINDS.items():
    for one in (_Reader, _Writer):
        one.add_implicit_resolver(kind, re.compile(f"^(?:{pattern})$"), starts)
_Reader.add_constructor("tag:yaml.org,2002:int", _whole_number)
_Reader.add_constructor("tag:yaml.org,2002:float", _number)
_Writer.add_representer(float, lambda dumper, value: dumper.represent_scalar("tag:yaml.org,2002:float", repr(value)))
