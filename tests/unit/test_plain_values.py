"""What is read without pydantic is what pydantic reads."""

import itertools
import json
import subprocess
import sys
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import TypeAdapter, ValidationError

from wavetune.plain_values import NOT_PLAIN, plain_value

HINTS = [
    bool,
    int,
    float,
    str,
    Any,
    Annotated[float, Gt(0), Le(10)],
    Annotated[int, Ge(1), Lt(7)],
    Annotated[str, MinLen(1)],
    Annotated[str, MaxLen(2)],
    Literal["auto", 1, True],
    float | None,
    int | float,
    float | int,
    float | tuple[float, ...],
    tuple[int, ...] | tuple[float, ...] | None,
    tuple[Annotated[float, Gt(0)], str],
    Annotated[tuple[str, ...], MinLen(1)] | None,
    dict[str, str],
    dict[int, float | tuple[float, ...]],
    dict[int, int] | dict[str, int],
    tuple[tuple[str, ...], ...],
]
VALUES = [
    None, True, False, 0, 1, -3, 7, 2**53 + 1, 0.5, 10.0, -0.0, 1e300, "", "auto", "1", "\ud800", "\u00e4", [], [1],
    [1, 2.0], [0.5, "a"], ["a"], [["a"], []], {}, {"a": "b"}, {"1": 2.5, "2": [1, 2]}, {"01": 1}, {"1": 2}, {"-1": 2},
    {"1": None},
]  # fmt: skip


@pytest.mark.parametrize("hint", HINTS, ids=str)
def test_a_plain_value_is_what_pydantic_reads(hint):
    adapter, plain = TypeAdapter(hint), 0
    for value in VALUES:
        found = plain_value(hint, value)
        if found is NOT_PLAIN:
            continue
        plain += 1
        wanted = adapter.validate_json(json.dumps(value), strict=True)
        assert (found, type(found)) == (wanted, type(wanted)), value
        assert list(map(type, found)) == list(map(type, wanted)) if isinstance(found, tuple) else True
    assert plain or hint is Any or MaxLen(2) in getattr(hint, "__metadata__", ())


def test_what_pydantic_refuses_is_never_plain():
    refused = 0
    for hint, value in itertools.product(HINTS, VALUES):
        try:
            TypeAdapter(hint).validate_json(json.dumps(value), strict=True)
        except ValidationError:
            refused += 1
            assert plain_value(hint, value) is NOT_PLAIN, (hint, value)
    assert refused > 100


def test_reading_a_recipe_with_settings_imports_no_pydantic():
    program = """
import sys
for name in ("pydantic", "yaml"):
    sys.modules[name] = None
import wavetune
chosen = wavetune.recipe("sflllm", "run.rounds=3", "method.lora.rank=4", "world.scenario.cell_radius_m=90")
assert (chosen.run.rounds, chosen.method.lora.rank) == (3, 4)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
