"""A recipe: world, method and run settings, as one frozen value that can be shown, changed, saved and run again."""

from __future__ import annotations

import dataclasses
import json
import math
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge
from pydantic import TypeAdapter, ValidationError

from wavetune.data.settings import DataSettings
from wavetune.errors import ConfigError, JsonError, WavetuneError, nearest
from wavetune.federation.method import Method
from wavetune.json_reader import read_json, value_of
from wavetune.wireless.plausible import require_plausible
from wavetune.wireless.scenario import Scenario


@dataclass(frozen=True)
class World:
    """Where training takes place: the cell and its devices, the clients' data, the model."""

    scenario: Scenario = field(default_factory=Scenario)
    data: DataSettings = field(default_factory=DataSettings)
    model: str = "smollm2-135m"


@dataclass(frozen=True)
class RunSettings:
    """How long to train, in which precision and where; how often to evaluate and save.

    `bf16` keeps the frozen weights in bf16 with fp32 activations and adapters; `auto` does so where the processor has
    bf16 products. `fp64` computes all in double precision, slowly, to tell a difference from rounding. `local_steps` 0
    leaves them to the planner (FedsLLM's alone chooses them). `tokens_per_pass` bounds the tokens that go through the
    model at once (None: chosen for the device).
    """

    rounds: Annotated[int, Ge(1)] = 20
    local_steps: Annotated[int, Ge(0)] = 4
    seed: Annotated[int, Ge(0)] = 0
    evaluate_every: Annotated[int, Ge(1)] = 5
    checkpoint_every: Annotated[int, Ge(1)] = 1
    precision: Literal["auto", "fp32", "bf16", "fp64"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    tokens_per_pass: Annotated[int, Ge(1)] | None = None
    samples: Annotated[int, Ge(0)] = 4
    sample_tokens: Annotated[int, Ge(1)] = 48

    def evaluates_after(self, round_index: int) -> bool:
        """Whether validation rows are looked at after a round: every so many, and after the last."""
        return round_index + 1 == self.rounds or (round_index + 1) % self.evaluate_every == 0


@dataclass(frozen=True)
class Recipe:
    """One runnable job."""

    name: str
    world: World
    method: Method
    run: RunSettings = field(default_factory=RunSettings)


_ADAPTER: TypeAdapter[Recipe] = TypeAdapter(Recipe)


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain JSON values."""
    return _ADAPTER.dump_python(recipe, mode="json")


def from_dict(values: Mapping[str, Any]) -> Recipe:
    """The recipe of JSON values. Raises ConfigError naming the field, its value and what is allowed."""
    _refuse_unknown(Recipe, values, "")
    _refuse_not_finite(values, "")
    try:
        recipe = _ADAPTER.validate_json(json.dumps(values), strict=True)
    except WavetuneError:
        raise
    except ValidationError as error:
        raise ConfigError(_sentence(error)) from None
    require_plausible(recipe.world.scenario)
    return recipe


def save(recipe: Recipe, path: Path) -> None:
    """Write the recipe as JSON."""
    path.write_text(json.dumps(to_dict(recipe), indent=2) + "\n", encoding="utf-8")


def load(path: Path) -> Recipe:
    """Read a recipe that `save` wrote. Raises ConfigError."""
    try:
        values = read_json(path, finite=False)  # from_dict names the field that is not finite
    except JsonError as error:
        raise ConfigError(f"cannot read a recipe from {path}: {error.reason}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} does not hold a recipe: expected a JSON object")
    return from_dict(values)


def with_settings(recipe: Recipe, settings: Iterable[str]) -> Recipe:
    """The recipe with `path=value` settings applied, values read as JSON where they parse, else as text.

    Setting the `kind` of a part exchanges the part, with the defaults of the new one.
    """
    values = to_dict(recipe)
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set takes path=value, such as run.rounds=10, not {setting!r}")
        _assign(values, path.strip(), _parsed(path.strip(), text))
    return from_dict(values)


def _parsed(path: str, text: str) -> Any:
    words = {"None": None, "True": True, "False": False}
    try:
        return words[text.strip()] if text.strip() in words else value_of(text.strip())
    except JsonError as error:
        raise ConfigError(f"--set {path}: {error.reason}") from None


def _assign(values: dict[str, Any], path: str, value: Any) -> None:
    kind: Any = Recipe
    parent, parts = values, path.split(".")
    for depth, part in enumerate(parts):
        where = ".".join(parts[:depth])
        names = _field_names(kind, parent)
        if part not in names and not _is_mapping(kind):
            raise ConfigError(f"{where or 'a recipe'} has no field {part!r}; {_meant(part, names, values)}")
        if depth == len(parts) - 1:
            if part == "kind" and parent.get("kind") != value:
                parent.clear()
            parent[part] = value
            return
        kind = _field_type(kind, parent, part)
        if parent.get(part) is None and (_field_names(kind, {}) or _is_mapping(kind)):
            parent[part] = {}  # a part that is off: setting one of its fields turns it on
        if not isinstance(parent.get(part), dict):
            raise ConfigError(
                f"{'.'.join(parts[: depth + 1])} holds a single value; it has no field {parts[depth + 1]!r}"
            )
        parent = parent[part]


def _meant(name: str, names: Iterable[str], recipe: Mapping[str, Any]) -> str:
    """Where in a recipe a field of this name stands; if nowhere, the nearest of the names that were possible."""
    found = _paths_to(name, Recipe, recipe)
    return f"did you mean {' or '.join(found[:3])}?" if found else nearest(name, names)


def _paths_to(name: str, kind: Any, values: Any, path: str = "") -> list[str]:
    """Paths of all fields of a name, in parts that are off too."""
    found, given = list[str](), values if isinstance(values, Mapping) else {}
    for field_name in _field_names(kind, given):
        here = f"{path}.{field_name}".lstrip(".")
        found += [here] if field_name == name else []
        found += _paths_to(name, _field_type(kind, given, field_name), given.get(field_name), here)
    return found


def _alternatives(kind: Any) -> list[Any]:
    """The types a field may have, without Annotated and None."""
    if get_origin(kind) is Annotated:
        return _alternatives(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        return [a for arg in get_args(kind) for a in _alternatives(arg)]
    return [] if kind is type(None) else [kind]


def _part(kind: Any, values: Mapping[str, Any]) -> Any:
    """The dataclass that these values describe, among the alternatives."""
    parts = [a for a in _alternatives(kind) if dataclasses.is_dataclass(a)]
    for part in parts:
        if _kind_of(part) == values.get("kind"):
            return part
    return parts[0] if parts else None


def _kind_of(part: Any) -> Any:
    return next((f.default for f in dataclasses.fields(part) if f.name == "kind"), None)


def _field_names(kind: Any, values: Mapping[str, Any]) -> list[str]:
    part = _part(kind, values)
    return [f.name for f in dataclasses.fields(part)] if part else []


def _field_type(kind: Any, values: Mapping[str, Any], name: str) -> Any:
    part = _part(kind, values)
    return get_type_hints(part, include_extras=True).get(name) if part else None


def _is_mapping(kind: Any) -> bool:
    return any(get_origin(a) is dict for a in _alternatives(kind))


def _refuse_unknown(kind: Any, values: Any, path: str) -> None:
    if not isinstance(values, Mapping):
        return
    kinds = [_kind_of(a) for a in _alternatives(kind) if dataclasses.is_dataclass(a)]
    if values.get("kind") is not None and None not in kinds and kinds and values["kind"] not in kinds:
        raise ConfigError(f"{path}.kind is {values['kind']!r}; {nearest(str(values['kind']), map(str, kinds))}")
    part = _part(kind, values)
    if part is None:
        return
    names = _field_names(kind, values)
    for name, value in values.items():
        if name not in names:
            raise ConfigError(f"{path or 'a recipe'} has no field {name!r}; {nearest(name, names)}")
        _refuse_unknown(_field_type(kind, values, name), value, f"{path}.{name}".lstrip("."))


def _refuse_not_finite(value: Any, path: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{path} is {value} but must be a finite number")
    parts = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for name, part in parts:
        _refuse_not_finite(part, f"{path}.{name}".lstrip("."))


def _sentence(error: ValidationError) -> str:
    """The first problem of a validation, in the path that `--set` takes."""
    problems = error.errors()
    other_kinds = [p["loc"][:-1] for p in problems if p["type"] == "literal_error" and p["loc"][-1] == "kind"]
    of_this_kind = [p for p in problems if not any(p["loc"][: len(kind)] == kind for kind in other_kinds)]
    first = max(of_this_kind or problems, key=lambda problem: len(problem["loc"]))
    path = ".".join(
        str(p) for p in first["loc"] if isinstance(p, int) or (str(p).isidentifier() and str(p)[0].islower())
    )
    message, shown = first["msg"].removeprefix("Value error, "), first.get("input")
    if first["type"] in ("missing", "unexpected_keyword_argument"):
        return f"{path}: {message.lower()}"
    if first["type"] == "value_error":  # of a part's own check, whose message names field and value
        return f"{path}: {message}"
    return f"{path} is {shown!r}: {message[0].lower()}{message[1:]}"
