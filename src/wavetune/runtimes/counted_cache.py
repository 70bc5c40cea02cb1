"""What planning counted of a data set's tokens, kept in the cache until the data, the tokenizer or our code changes."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from wavetune.data.corpora import EMBEDDED
from wavetune.data.token_cache import code_of_data
from wavetune.federation.round_planner import SampleStatistics
from wavetune.given import at_home
from wavetune.models.cache import kept, place_of, state_of
from wavetune.part_values import values_of
from wavetune.parts import foreign_packages
from wavetune.recipe import Recipe

Counted = tuple[SampleStatistics, tuple[int, ...], int, str]
"""The average sample, samples a client, number of classes, and what is told of the data."""


def recalled_count(recipe: Recipe, model: Path | None, count: Callable[[], Counted]) -> Counted:
    """What `count` finds of a recipe's data, with the tokenizer of a model's folder if any, or found before."""
    data = recipe.world.data
    if foreign_packages(data) or (files := _files_of(data.source)) is None:
        return count()  # as a change would not be noticed
    key = [_code(), model and state_of(_all_files(model)), state_of(files), values_of(data)]
    key += [recipe.world.scenario.population.num_clients, recipe.run.seed]
    return kept(place_of("counted", key), count, lambda counted: [asdict(counted[0]), *counted[1:]], _read)


def _read(value: Any) -> Counted:
    statistics, samples_K, num_classes, told = value
    return SampleStatistics(**statistics), tuple(samples_K), num_classes, told


def _files_of(source: str) -> list[Path] | None:
    """The files that hold the data; none of what is generated, None of what lies elsewhere."""
    folder = at_home(source)
    if source in EMBEDDED:
        return []
    return list(_all_files(folder)) if folder.exists() else None


def _all_files(path: Path) -> Iterator[Path]:
    return filter(Path.is_file, path.rglob("*")) if path.is_dir() else iter([path])


@cache
def _code() -> str:
    """Changes with the sources that write, read and tokenise data, and with the library that tokenises."""
    return f"{code_of_data()} {state_of([Path(__file__).with_name('world.py')])}"
