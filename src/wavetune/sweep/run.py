"""Plan every cell (value, seed, method) of a sweep, in parallel over the cores; a sweep that was stopped goes on."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import wavetune
from wavetune.errors import ConfigError
from wavetune.federation.method import Central, Split
from wavetune.recipe import Recipe, to_dict
from wavetune.runtimes.world import SampleCount, count_samples, plan_world
from wavetune.sweep.axis import Axis, Value
from wavetune.sweep.methods import BOUND, METHODS
from wavetune.sweep.results import Record, Results, key

Cell = tuple[Value, int, str]
Progress = Callable[[str, int, int], None]  # what is counted, how many are done, of how many


@dataclass(frozen=True)
class Sweep:
    """A recipe with one field varied, under so many seeds, planned by several methods."""

    recipe: Recipe
    axis: Axis
    num_seeds: int
    methods: tuple[str, ...]

    def __post_init__(self) -> None:
        method = self.recipe.method
        if isinstance(method.topology, Central):
            raise ConfigError(f"{self.recipe.name} trains in one place and sends nothing: there is no plan to sweep")
        cut = method.topology.cut if isinstance(method.topology, Split) else None
        if isinstance(cut, tuple) or isinstance(method.lora.rank, tuple):
            raise ConfigError("a sweep plans one cut and one rank for all clients; give one number, or none, for each")

    @property
    def seeds(self) -> tuple[int, ...]:
        """The recipe's seed and those after it: the same devices and channels at every value and for every method."""
        return tuple(self.recipe.run.seed + i for i in range(self.num_seeds))

    @property
    def cells(self) -> list[Cell]:
        """Every value, seed and planner; the bound is a by-product of one of them."""
        planners = [name for name in self.methods if name != BOUND]
        return [(value, seed, name) for seed in self.seeds for value in self.axis.values for name in planners]

    def at(self, value: Value, seed: int) -> Recipe:
        """The recipe of a value and a seed."""
        recipe = self.axis.recipe(self.recipe, value)
        return replace(recipe, run=replace(recipe.run, seed=seed))


def run(sweep: Sweep, folder: Path, jobs: int, progress: Progress, command: str = "") -> list[Record]:
    """Plan the cells that the folder does not hold yet; returns the records of all cells of this sweep in their order.

    Raises:
        ConfigError: a value does not suit the recipe.
        RunFolderError: the folder holds another sweep or cannot be written.
    """
    identity = {"recipe": to_dict(sweep.recipe), "field": sweep.axis.field, "version": wavetune.__version__}
    notes = {"values": sweep.axis.values, "seeds": sweep.seeds, "methods": sweep.methods, "command": command}
    results = Results.open(folder, identity, notes)
    cells = sweep.cells
    todo = [cell for cell in cells if key(*cell) not in results.records]
    with _workers(min(jobs, len(todo))) as each:
        tasks = [(*cell, sweep.at(*cell[:2])) for cell in todo]
        counts = _counts([recipe for *_, recipe in tasks], each, progress)
        planned = len(cells) - len(todo)
        for record in each(_plan_cell, [(*task, counts[_source(task[-1])]) for task in tasks]):
            results.add(record)
            planned += 1
            progress("cells", planned, len(cells))
    return [results.records[key(*cell)] for cell in cells]


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _counts(recipes: Sequence[Recipe], each: Each, progress: Progress) -> dict[str, SampleCount]:
    """What planning takes from model and data, once for all recipes that share it; checks that the recipes suit it."""
    sources = {_source(recipe): recipe for recipe in recipes}
    counts: dict[str, SampleCount] = {}
    for source, count in each(_count, list(sources.items())):
        counts[source] = count
        progress("data sets", len(counts), len(sources))
    for recipe in {repr(replace(r, run=replace(r.run, seed=0))): r for r in recipes}.values():
        _planner(recipe, counts[_source(recipe)])
    return counts


def _source(recipe: Recipe) -> str:
    return repr((recipe.world.model, recipe.world.data, recipe.world.scenario.population.num_clients, recipe.run.seed))


def _count(source: str, recipe: Recipe) -> tuple[str, SampleCount]:
    return source, count_samples(recipe)


def _planner(recipe: Recipe, count: SampleCount) -> Any:
    return plan_world(recipe, count.architecture, count.statistics, count.num_samples_K)


def _plan_cell(value: Value, seed: int, method: str, recipe: Recipe, count: SampleCount) -> Record:
    problem = _planner(recipe, count).problem(0)
    started_s = time.perf_counter()
    plan = METHODS[method].plan(problem, seed)
    found = plan.status == "ok"
    return {
        "value": value,
        "seed": seed,
        "method": method,
        "status": plan.status,
        "reason": plan.reason,
        "delay_s": plan.delay_s if found else None,
        "lower_bound_s": plan.lower_bound_s if found else None,
        "wall_s": round(time.perf_counter() - started_s, 4),
    }


Each = Callable[[Callable[..., Any], Sequence[tuple[Any, ...]]], Iterator[Any]]


@contextmanager
def _workers(jobs: int) -> Iterator[Each]:
    """How to call a function on several argument tuples: here, or in processes and then in the order they finish."""
    if jobs <= 1:
        yield lambda function, arguments: (function(*a) for a in arguments)
        return
    # Spawned, as forking a process with threads may hang it; without Ctrl-C, which is for the parent to handle.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:

        def each(function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
            return (future.result() for future in as_completed([pool.submit(function, *a) for a in arguments]))

        try:
            yield each
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
