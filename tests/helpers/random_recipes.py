"""Settings of a recipe at random, by the types and limits that its dataclasses give their fields."""

from __future__ import annotations

import dataclasses
import json
import math
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

from wavetune.part_values import part_type
from wavetune.parts import Part, kinds
from wavetune.recipe import Recipe

LARGEST = {"num_clients": 5, "num_subchannels": 12, "local_steps": 4, "least_cut": 3, "cut": 4}
"""Fields that a plan takes longer for the larger they are."""
LEFT = {
    "name",
    "title",
    "source",
    "model",
    "columns",
    "adapters",
    "targets",
    "variables",
    "stream",
    "preset",
    "unusual",
}
"""Fields whose values are names of things, and what says nothing alone."""


def assignments(recipe: Recipe, most: int = 6) -> st.SearchStrategy[list[str]]:
    """Lists of `path=value`, each at most once, that change fields of a recipe's world and method."""
    fields = [*_fields(recipe.world, "world"), *_fields(recipe.method, "method")]
    chosen = st.lists(st.sampled_from(fields), min_size=1, max_size=most, unique_by=lambda field: field[0])
    return chosen.flatmap(lambda some: st.tuples(*(_assigned(*field) for field in some)).map(list))


def _assigned(path: str, hint: Any, value: Any) -> st.SearchStrategy[str]:
    return values(hint, value, path.rpartition(".")[2]).map(lambda drawn: f"{path}={json.dumps(drawn)}")


def _fields(part: Any, path: str) -> list[tuple[str, Any, Any]]:
    """Path, type and value of every field below a part."""
    hints, found = get_type_hints(type(part), include_extras=True), list[tuple[str, Any, Any]]()
    for field in dataclasses.fields(part):
        value, where = getattr(part, field.name), f"{path}.{field.name}"
        if field.name in LEFT:
            continue
        found.append((where, hints[field.name], value))
        if dataclasses.is_dataclass(value):
            found += _fields(value, where)
    return found


def values(hint: Any, default: Any, name: str) -> st.SearchStrategy[Any]:
    """JSON values of a field: most near its default, some at its limits."""
    limits = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    hint = get_args(hint)[0] if limits else hint
    if get_origin(hint) in (Union, types.UnionType):
        return st.one_of([values(one, None if one is type(None) else default, name) for one in get_args(hint)])
    if hint is type(None):
        return st.none()
    if hint is bool:
        return st.booleans()
    if get_origin(hint) is Literal:
        return st.sampled_from(get_args(hint))
    if get_origin(hint) is tuple:
        items = get_args(hint)
        if items[-1] is Ellipsis:
            return st.lists(values(items[0], None, name), min_size=1, max_size=5)
        return st.tuples(*(values(one, None, name) for one in items)).map(sorted)
    if part_type(hint) is not None:
        return _part(part_type(hint))
    if hint in (int, float):
        return _number(hint, limits, default, name)
    return st.just(default)


def _part(kind: Any) -> st.SearchStrategy[Any]:
    """A part of a seam with one or two of its fields changed."""
    if dataclasses.is_dataclass(kind):
        return _changed(kind)
    assert issubclass(kind, Part)
    found = sorted(kinds(kind).values(), key=lambda one: one.kind)
    return st.sampled_from(found or [None]).flatmap(
        lambda one: st.none() if one is None else _changed(one).map(lambda fields: {"kind": one.kind, **fields})
    )


def _changed(kind: Any) -> st.SearchStrategy[dict[str, Any]]:
    hints = get_type_hints(kind, include_extras=True)
    named = {f.name: f for f in dataclasses.fields(kind) if f.name not in LEFT}
    required = [n for n, f in named.items() if f.default is f.default_factory is dataclasses.MISSING]

    def drawn(names: list[str]) -> st.SearchStrategy[dict[str, Any]]:
        chosen = {n: values(hints[n], None, n) for n in {*required, *names}}
        return st.fixed_dictionaries(chosen)

    return st.lists(st.sampled_from([*named]), max_size=2, unique=True).flatmap(drawn) if named else st.just({})


def _number(kind: type, limits: Any, default: Any, name: str) -> st.SearchStrategy[Any]:
    lows = [getattr(limit, key) for limit in limits for key in ("ge", "gt") if hasattr(limit, key)]
    highs = [getattr(limit, key) for limit in limits for key in ("le", "lt") if hasattr(limit, key)]
    low, high = float(max(lows, default=-math.inf)), float(min(highs, default=math.inf))
    high = min(high, LARGEST.get(name, math.inf))
    if kind is int:
        return st.integers(int(max(low, 0)), int(min(high, max(low, 0) + 8)))
    if not isinstance(default, float | int) or isinstance(default, bool) or not default:
        start, end = max(low, -5.0), min(high, 5.0)
        return st.floats(start, end, allow_subnormal=False)
    near = st.floats(-1.5, 1.5).map(lambda e: min(max(default * 10**e, low), high))
    further = st.floats(max(low, default - 20), min(high, default + 20), allow_subnormal=False)
    ends = [end for end in (low, high) if math.isfinite(end)]
    return st.one_of([near, further, *map(st.just, ends)])
