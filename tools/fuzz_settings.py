"""Random `--set`s through `show` and `plan`, none of which may end in a traceback: --seed N --count N."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import fuzz

from wavetune.recipes import get, names

KINDS = {
    "average_factors", "frozen_a", "average_product", "median", "trimmed_mean", "multi_krum", "gaussian", "all",
    "deadline", "fastest", "dpo", "grpo", "ppo", "split", "federated", "central", "top_k", "fp64", "bf16", "int8",
    "outage", "paper_greedy", "uniform_power", "random_subchannels", "all_random", "fedsllm", "embedded", "trained",
    "classifier", "python", "log_distance", "urban_macro", "urban_micro", "indoor_hotspot", "hotspot", "fixed",
    "none", "rayleigh", "rician", "iid", "dirichlet", "quantity_skew", "by_domain", "plain", "instruction", "chat",
    "class",
}  # fmt: skip
LATER = (".x", ".kind", "..", ".0", ".__class__", "\n", " ")
ELSEWHERE = (
    "",
    ".",
    "__class__",
    "world..data",
    "a" * 10_000,
    "world.data.\x1b[31m",
    "run",
    "world",
    "method.alignment",
)


def commands(seed: int, count: int) -> Iterator[list[str]]:
    """`count` commands of a seed: a recipe with one to three fields changed, shown or planned."""
    rng = random.Random(seed)
    fields = {name: list(_fields(get(name).to_dict())) for name in names()}
    kinds = sorted({v for of in fields.values() for path, v in of if path.endswith(".kind")} | KINDS)
    for _ in range(count):
        recipe = rng.choice(sorted(fields))
        settings = [_setting(rng, kinds, *rng.choice(fields[recipe])) for _ in range(rng.choice([1, 1, 1, 2, 3]))]
        assigned = [word for setting in settings for word in ("--set", setting)]
        plan = ["--model", "tiny", "--time-limit", "1", *(["--json", "-"] if rng.random() < 0.5 else [])]
        yield ["plan", recipe, *assigned, *plan] if rng.random() < 0.34 else ["show", recipe, *assigned]


def _setting(rng: random.Random, kinds: list[str], path: str, value: Any) -> str:
    """A field with a plausible value, a hostile one, or a path that does not exist."""
    if rng.random() < 0.6:
        return f"{path}={_plausible(rng, kinds, value)}"
    kind = rng.random()
    if kind < 0.1:
        path += rng.choice(LATER)
    elif kind < 0.15:
        path = rng.choice(ELSEWHERE)
    return path if rng.random() < 0.02 else f"{path}={rng.choice(fuzz.HOSTILE)}"


def _plausible(rng: random.Random, kinds: list[str], value: Any) -> str:
    if isinstance(value, bool):
        return rng.choice(["true", "false"])
    if isinstance(value, int) and rng.random() < 0.7:
        return str(rng.choice([0, 1, 2, 3, 5, 40, 2 * value, value + 1, 10 * value]))
    if isinstance(value, int | float):
        return repr(
            value
            * 10.0 ** rng.uniform(*rng.choice([(-1, 1), (-3, 3), (-12, 12), (-300, 300)]))
            * rng.choice([1, 1, 1, -1])
        )
    if isinstance(value, dict):
        return json.dumps({"kind": rng.choice(kinds)})
    return rng.choice([*kinds, "null", "1", "0.5", "2", "[1,2]", "[0.5,1.5]"])


def _fields(values: dict[str, Any], parent: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        path = f"{parent}.{name}" if parent else name
        yield path, value
        if isinstance(value, dict):
            yield from _fields(value, path)


if __name__ == "__main__":
    fuzz.command("Random --set through show and plan.", commands)
