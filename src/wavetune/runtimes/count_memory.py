"""What planning counted of a data set's tokens, kept in the cache until the data, the tokenizer or our code changes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from wavetune.data.corpora import EMBEDDED
from wavetune.data.token_cache import code_of_data
from wavetune.federation.round_planner import SampleStatistics
from wavetune.models.cache import cached, recalled, remembered, state_of
from wavetune.part_values import values_of
from wavetune.parts import foreign_packages

if TYPE_CHECKING:
    from wavetune.recipe import Recipe

Counted = tuple[SampleStatistics, tuple[int, ...], int, str]
"""The average sample, samples a client, number of classes, and what is told of the data."""


def place_of(recipe: Recipe, model: Path) -> Path | None:
    """Where the count of a recipe's data for a model's folder is kept; None where a change would not be noticed."""
    data = recipe.world.data
    if foreign_packages(data) or (files := _files_of(data.source)) is None:
        return None
    key = [_code(), state_of(_all_files(model)), state_of(files), values_of(data)]
    key += [recipe.world.scenario.population.num_clients, recipe.run.seed]
    return cached(f"counted/{sha256(json.dumps(key).encode()).hexdigest()}.json")


def recall(place: Path) -> Counted | None:
    """What was counted there; None if nothing was, or it cannot be read."""
    try:
        statistics, samples_K, num_classes, told = recalled(place)
        return SampleStatistics(**statistics), tuple(samples_K), num_classes, told
    except (TypeError, ValueError):
        return None


def remember(place: Path, counted: Counted) -> None:
    """Keep what was counted."""
    statistics, *rest = counted
    remembered(place, [asdict(statistics), *rest])


def _files_of(source: str) -> list[Path] | None:
    """The files that hold the data; none of what is generated, None of what lies elsewhere."""
    folder = Path(source).expanduser()
    if source in EMBEDDED:
        return []
    return list(_all_files(folder)) if folder.exists() else None


def _all_files(path: Path) -> Iterator[Path]:
    return filter(Path.is_file, path.rglob("*")) if path.is_dir() else iter([path])


@cache
def _code() -> str:
    """Changes with the sources that write, read and tokenise data, and with the library that tokenises."""
    return f"{code_of_data()} {state_of([Path(__file__).with_name('world.py')])}"
