"""Parts as JSON values: written, read back with every refusal by its path, and set field by field.

A field that holds a part of a seam is written with its `kind`, the name of one of the seam's parts. A text in its place
stands for the kind alone, and one part for a list of one.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import types
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Union, cast, get_args, get_origin

from wavetune.csv_files import read_cells
from wavetune.errors import ConfigError, DataError, JsonError, WavetuneError, nearest
from wavetune.json_reader import value_of
from wavetune.parts import Part, kinds, named, seam_of
from wavetune.plain_values import NOT_PLAIN, field_types, plain_value

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

_MOST_PARTS = 100  # in a list


def values_of(value: Any) -> Any:
    """A part, or what a field of one holds, as plain JSON values."""
    if dataclasses.is_dataclass(value):
        own = {f.name: values_of(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"kind": cast(Part, value).kind, **own} if seam_of(type(value)) is not None else own
    if isinstance(value, Mapping):
        return {str(key): values_of(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [values_of(one) for one in value]
    if not isinstance(value, str | int | float | None):
        raise ConfigError(
            f"a field of a part holds {type(value).__name__}, which a recipe cannot; let it hold numbers, texts, "
            "lists, mappings or parts"
        )
    return value


def read_part(kind: Any, values: Any, path: str = "", packages: Collection[str] | None = None) -> Any:
    """The part of JSON values.

    Args:
        kind: a dataclass, a seam whose part the values name, or a type of several of these.
        values: as `values_of` writes them.
        path: of the part, for what is refused.
        packages: whose modules may be imported for a kind, beside wavetune's; None: anybody's.

    Raises: ConfigError naming the field, its value and what is allowed.
    """
    _refuse_not_finite(values, path)
    return _Reader(packages).value(kind, values, path)


@dataclasses.dataclass(frozen=True)
class _Reader:
    packages: Collection[str] | None

    def value(self, hint: Any, value: Any, path: str) -> Any:
        """What a field of this type holds."""
        part, each = part_type(hint), _type_of_items(hint)
        if each is not None:
            if isinstance(value, list):
                if len(value) > _MOST_PARTS and _is_seam(each):  # which are held against one another, pair by pair
                    raise ConfigError(f"{path} holds {len(value):,} parts and may hold {_MOST_PARTS}; leave some out")
                paths = [path] if len(value) == 1 else [f"{path}.{i}" for i in range(len(value))]
                return tuple(self.value(each, one, where) for where, one in zip(paths, value, strict=True))
            return (self.value(each, value, path),)
        if part is None:
            return _leaf(hint, value, path)
        if value is None and type(None) in get_args(hint):
            return None
        values = {"kind": value} if isinstance(value, str) and _is_seam(part) else value
        if not isinstance(values, Mapping):
            raise ConfigError(f"{path} is {value!r} but must be an object with the fields of a part")
        return self.part(part, values, path)

    def part(self, kind: Any, values: Mapping[str, Any], path: str) -> Any:
        """The part of a class or seam."""
        chosen = _chosen(kind, values, path, self.packages)
        hints, of = field_types(chosen), getattr(chosen, "kind", None)
        own = {name: value for name, value in values.items() if name != "kind" or value != of}
        for name in own:
            if name not in hints:
                raise ConfigError(f"{path or 'a recipe'} has no field {name!r}; {nearest(name, hints)}")
        for f in dataclasses.fields(chosen):
            if f.default is f.default_factory is dataclasses.MISSING and f.name not in own:
                raise ConfigError(f"{path}.{f.name}: field required".lstrip("."))
        found = {name: self.value(hints[name], value, f"{path}.{name}".lstrip(".")) for name, value in own.items()}
        try:
            return chosen(**found)
        except WavetuneError as error:
            raise ConfigError(f"{path}: {error}" if path else str(error)) from None


def _chosen(kind: Any, values: Mapping[str, Any], path: str = "", packages: Collection[str] | None = None) -> Any:
    """The dataclass that values describe: the class itself, or the part of a seam that their `kind` names."""
    if not _is_seam(kind):
        return kind
    named_kind = values.get("kind", kind.usual)
    if not isinstance(named_kind, str) or not named_kind:
        raise ConfigError(f"{path}.kind is {values.get('kind')!r}; choose one of {', '.join(sorted(kinds(kind)))}")
    return named(named_kind, kind, f"{path}.kind", packages)


@cache
def part_type(hint: Any) -> Any | None:
    """The dataclass or seam that a field of this type can hold; None where it holds something else."""
    found = (a for a in _alternatives(hint) if isinstance(a, type))
    return next((a for a in found if dataclasses.is_dataclass(a) or issubclass(a, Part)), None)


@cache
def _type_of_items(hint: Any) -> Any | None:
    """The dataclass or seam of the items of a tuple."""
    tuples = (a for a in _alternatives(hint) if get_origin(a) is tuple)
    return next((get_args(a)[0] for a in tuples if part_type(get_args(a)[0]) is not None), None)


def _alternatives(hint: Any) -> list[Any]:
    """The types that a field may have, without Annotated and None."""
    if get_origin(hint) is Annotated:
        return _alternatives(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        return [a for arg in get_args(hint) for a in _alternatives(arg)]
    return [] if hint is type(None) else [hint]


def _is_seam(kind: Any) -> bool:
    return not dataclasses.is_dataclass(kind)


@cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(hint)


def _leaf(hint: Any, value: Any, path: str) -> Any:
    if (found := plain_value(hint, value)) is not NOT_PLAIN:
        return found
    from pydantic import ValidationError  # which takes longer to import than a recipe to read

    try:
        return _adapter(hint).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        raise ConfigError(_sentence(error, path)) from None


def _sentence(error: ValidationError, path: str) -> str:
    """The first problem of a validation, in the path that `--set` takes."""
    first = max(error.errors(), key=lambda problem: len(problem["loc"]))
    inside = (str(p) for p in first["loc"] if isinstance(p, int) or (str(p).isidentifier() and str(p)[0].islower()))
    path = ".".join([path, *inside])
    message = first["msg"].removeprefix("Value error, ").replace(" after validation", "").replace("Tuple", "a list", 1)
    given = first.get("input")
    shown = list(cast("tuple[Any, ...]", given)) if isinstance(given, tuple) else given
    return f"{path} is {shown!r}: {message[0].lower()}{message[1:]}"


def _refuse_not_finite(value: Any, path: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{path} is {value} but must be a finite number")
    parts = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for name, part in parts:
        _refuse_not_finite(part, f"{path}.{name}".lstrip("."))


def assign(kind: Any, values: dict[str, Any], path: str, value: Any) -> list[str]:
    """Put a value at a path into the values of a part of a class; a part that is off on the way is turned on.

    Another `kind` exchanges a part, with the defaults of the new one, and a list of parts of one class may be the name
    of a table with a row for each. Returns the places of these rows, file and line. Raises ConfigError where there is
    no such field, or no such table.
    """
    *inside, last = path.split(".")
    parent, hint, at = values, kind, list[str]()
    for name in inside:
        hint = _type_of_field(hint, parent, name, at, kind, values)
        holds_parts = part_type(hint) or _type_of_items(hint) or _is_mapping(hint)
        if isinstance(parent, dict) and parent.get(name) is None and holds_parts:
            parent[name] = {}
        if isinstance(parent, dict) and isinstance(parent.get(name), str) and _is_open(hint):
            parent[name] = {"kind": parent[name]}
        parent = parent[int(name)] if isinstance(parent, list) else parent.get(name)
        at.append(name)
        if isinstance(parent, list) and not [*inside, last][len(at)].isdecimal() and len(parent) < 2:
            parent[:] = parent or [{}]  # one part stands for a list of one
            parent, hint = parent[0], _type_of_items(hint)
        if not isinstance(parent, dict | list):
            following = [*inside, last][len(at)]
            raise ConfigError(f"{'.'.join(at)} holds a single value; it has no field {following!r}")
    each, places = _type_of_items(_type_of_field(hint, parent, last, at, kind, values)), list[str]()
    if isinstance(value, str) and each is not None and not _is_seam(each):
        places, value = _rows(value, path, field_types(part_type(each)))
    if isinstance(parent, list):
        parent[int(last)] = value
        return places
    if last == "kind" and parent.get("kind") != value:
        parent.clear()
    parent[last] = value
    return places


def _rows(file: str, path: str, fields: Collection[str]) -> tuple[list[str], list[dict[str, Any]]]:
    """The rows of a table and their places as values of parts: columns are fields; an empty cell leaves its field."""
    if not file.lower().endswith((".csv", ".tsv")):
        raise ConfigError(f"{path} is {file!r} but must be a list, or the name of a table in CSV or TSV (.csv, .tsv)")
    try:
        _, lines = read_cells(Path(file))
        (header, names), *rows = lines
        if not rows:
            raise ConfigError(f"{path}: {file} has no rows; give at least one")
        if "" in names:
            raise ConfigError(f"{path}: {file} has a column without a name; name it by a field, or take it out")
        if unknown := [name for name in names if name not in fields]:
            raise ConfigError(f"{path}: {header} has a column {unknown[0]!r}; {nearest(unknown[0], fields)}")
        return [place for place, _ in rows], [
            {name: value_of(cell.strip()) for name, cell in zip(names, cells, strict=True) if cell.strip()}
            for _, cells in rows
        ]
    except (DataError, JsonError) as error:
        raise ConfigError(f"{path}: {error}") from None


@contextmanager
def of_tables(places: Mapping[str, Sequence[str]]) -> Iterator[None]:
    """Around reading values: what is refused of a row of a table, by its index, is said with the row's file and line.

    >>> with of_tables({"world.devices": ["d.csv:2", "d.csv:3"]}):
    ...     raise ConfigError("world.devices.1.clock_hz is -1")
    Traceback (most recent call last):
    wavetune.errors.ConfigError: d.csv:3: world.devices.1.clock_hz is -1
    """
    try:
        yield
    except ConfigError as error:
        for path, rows in places.items():
            name = re.escape(path.rpartition(".")[2])
            found = re.search(rf"(?<![/\w]){name}(?:[.\[](\d+)|\.[a-z])", str(error))
            if found and int(found[1] or 0) < len(rows):
                raise ConfigError(f"{rows[int(found[1] or 0)]}: {error}") from None
        raise


def _type_of_field(hint: Any, parent: Any, name: str, at: list[str], kind: Any, values: Any) -> Any:
    """Type of a field or entry of what stands `at` a path; ConfigError where there is none of this name."""
    where = ".".join(at)
    if isinstance(parent, list):
        if not name.isdecimal() or int(name) >= len(parent):
            raise ConfigError(f"{where} is a list of {len(parent)}; it has no entry {name!r}")
        return _type_of_items(hint)
    if _is_mapping(hint):
        return None
    fields = {} if name == "kind" and _is_open(hint) else _fields(hint, parent, where)
    if name not in fields and not (name == "kind" and _is_open(hint)):
        found = _paths_to(name, kind, values)
        meant = f"did you mean {' or '.join(found[:3])}?" if found else nearest(name, fields)
        raise ConfigError(f"{where or 'a recipe'} has no field {name!r}; {meant}")
    return fields.get(name)


def _fields(hint: Any, values: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Types of the fields of the part that values describe, by name."""
    part = part_type(hint) or _type_of_items(hint)
    return {} if part is None else field_types(_chosen(part, values, path))


def _is_open(hint: Any) -> bool:
    part = part_type(hint) or _type_of_items(hint)
    return part is not None and _is_seam(part)


def _is_mapping(hint: Any) -> bool:
    return any(get_origin(a) is dict for a in _alternatives(hint))


def _paths_to(name: str, hint: Any, values: Any, path: str = "") -> list[str]:
    """Paths of all fields of a name, in parts that are off too."""
    found, given = list[str](), values if isinstance(values, Mapping) else {}
    if _is_open(hint) and "kind" not in given:
        return []
    for field, inside in _fields(hint, given, path).items():
        here = f"{path}.{field}".lstrip(".")
        found += [here] if field == name else []
        found += _paths_to(name, inside, given.get(field), here)
    return found
