"""Plan every cell (value, seed, method) of a sweep, in parallel over the cores; a sweep that was stopped goes on."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import wavetune
from wavetune.allocation.feasibility import require_feasible
from wavetune.allocation.participants import plan_on_channel
from wavetune.allocation.plan import Plan, infeasible
from wavetune.allocation.problem import Problem
from wavetune.errors import ConfigError, RunFolderError
from wavetune.federation.folder_lock import locked
from wavetune.recipe import Recipe
from wavetune.runtimes.continued import as_begun
from wavetune.runtimes.world import SampleCount, count_samples, plan_world
from wavetune.sweep.axis import Axis, Value, key_of
from wavetune.sweep.methods import BOUND, PROPOSED, method_of
from wavetune.sweep.results import Record, Results, key
from wavetune.workers import Each, workers

Cell = tuple[Value, int, str]
Progress = Callable[[str, int, int], None]  # what is counted, how many are done, of how many
_MOST_SEEDS = 10_000


@dataclass(frozen=True)
class Sweep:
    """A recipe with one field varied, under so many seeds, planned by several methods."""

    recipe: Recipe
    axis: Axis
    num_seeds: int
    methods: tuple[str, ...]

    def __post_init__(self) -> None:
        if not 1 <= self.num_seeds <= _MOST_SEEDS:
            raise ConfigError(f"--seeds is {self.num_seeds} but must be from 1 to {_MOST_SEEDS:,}")
        for value in self.axis.values:
            _check_comparable(self.axis.recipe(self.recipe, value))

    @property
    def seeds(self) -> tuple[int, ...]:
        """The recipe's seed and those after it: the same devices and channels at every value and for every method."""
        return tuple(self.recipe.run.seed + i for i in range(self.num_seeds))

    @property
    def cells(self) -> list[Cell]:
        """Every value, seed and planner; the bound is a by-product of one of them."""
        planners = [name for name in self.methods if name != BOUND]
        return [(value, seed, name) for seed in self.seeds for value in self.axis.values for name in planners]


def _check_comparable(recipe: Recipe) -> None:
    """Refuse what not all planners plan alike."""
    method = recipe.method
    if method.topology.pooled:
        raise ConfigError(f"{recipe.name} trains in one place and sends nothing: there is no plan to sweep")
    if not method.one_for_all:
        raise ConfigError("a sweep plans one cut and one rank for all clients; give one number, or none, for each")
    if method.planner.minds_energy:
        raise ConfigError("a sweep compares delays alone; plan without the energy and deadline of method.planner")
    if not method.selection.everyone:
        raise ConfigError("a sweep plans for all clients together; set method.selection.kind=all")


def run(sweep: Sweep, folder: Path, jobs: int, progress: Progress) -> list[Record]:
    """Plan the cells that the folder does not hold yet, each saved as soon as it is planned.

    Args:
        sweep: what to plan.
        folder: where to save; made if it does not exist.
        jobs: processes, of one numeric thread each; with 1 all is done in this process.
        progress: told of every step.

    Returns:
        The records of all cells in their order, whatever the number of processes and of interruptions.

    Raises:
        ConfigError: a value does not suit the recipe, its model or its data.
        RunFolderError: the folder holds another sweep, is in use or cannot be written, or a process was killed.
    """
    with locked(folder):
        sweep = replace(sweep, recipe=as_begun(sweep.recipe, folder / "sweep.json"))
        identity = {"recipe": sweep.recipe.to_dict(), "field": sweep.axis.field, "version": wavetune.__version__}
        if channel := dict(sweep.recipe.world.scenario.channel.inputs()):
            identity["channel"] = channel
        return _run(sweep, Results.open(folder, identity), jobs, progress)


def _run(sweep: Sweep, results: Results, jobs: int, progress: Progress) -> list[Record]:
    recipes = {key_of(value): sweep.axis.recipe(sweep.recipe, value) for value in sweep.axis.values}
    todo = [cell for cell in sweep.cells if key(*cell) not in results.records]
    seeded = [(recipes[key_of(value)], seed) for value, seed, _ in todo]
    worlds = [replace(recipe, run=replace(recipe.run, seed=seed)) for recipe, seed in seeded]
    done, total = len(sweep.cells) - len(todo), len(sweep.cells)
    with workers(min(jobs, len(todo)), f"the sweep in {results.folder}") as each:
        counts = _counts(worlds, each, progress)
        tasks = [(*cell, world, counts[_source(world)]) for cell, world in zip(todo, worlds, strict=True)]
        _check(tasks, results)
        for done, record in enumerate(each(_plan_cell, tasks), start=done + 1):  # noqa: B020
            results.add(record)
            progress("cells", done, total)
    return [results.records[key(*cell)] for cell in sweep.cells]


Task = tuple[Value, int, str, Recipe, SampleCount]


def _counts(recipes: Iterable[Recipe], each: Each, progress: Progress) -> dict[str, SampleCount]:
    """What planning takes from model and data, once for all recipes that share it."""
    sources = {_source(recipe): recipe for recipe in recipes}
    counts: dict[str, SampleCount] = {}
    for source, count in each(_count, list(sources.items())):
        counts[source] = count
        progress("data sets", len(counts), len(sources))
    return counts


def _source(recipe: Recipe) -> str:
    return repr((recipe.world.model, recipe.world.data, recipe.world.scenario.population.num_clients, recipe.run.seed))


def _count(source: str, recipe: Recipe) -> tuple[str, SampleCount]:
    return source, count_samples(recipe)


def _check(tasks: Sequence[Task], results: Results) -> None:
    """Refuse, before anything is planned, a value that does not suit and cells whose samples were counted otherwise."""
    checked = {key_of(value): (recipe, count) for value, *_, recipe, count in tasks}
    for recipe, count in checked.values():
        _problems(recipe, count)
    for (value, *_), record in results.records.items():
        if value in checked and record["samples"] != checked[value][1].how:
            raise RunFolderError(
                f"{results.folder} holds cells whose samples were {record['samples']}, now they are "
                f"{checked[value][1].how}; choose another --out"
            )


def _problems(recipe: Recipe, count: SampleCount) -> tuple[Problem, Problem]:
    """The problem as it is known when it is planned, and as it is: of the first round that both can differ in.

    Both are of those clients alone that the channel reaches as far as is known.
    """
    world = (count.architecture, count.statistics, count.num_samples_K, count.num_classes)
    planner, knowledge = plan_world(recipe, *world), recipe.world.scenario.knowledge
    known = planner.known(knowledge.age_rounds)
    reached = planner.of_reached(known)
    if knowledge.perfect:
        return reached, reached
    return reached, planner.of_reached(planner.problem(knowledge.age_rounds), known)


def _on(problem: Problem, plan: Plan, method: str) -> Plan:
    """What a plan that was made on what was known takes on the channel as it is, and its bound there."""
    if plan.status != "ok":
        return plan
    there = plan_on_channel(problem, plan)
    if not np.isfinite(there.delay_s):
        return infeasible("a client's link carries nothing by the time it sends")
    return replace(there, lower_bound_s=method_of(method).plan(problem, 0).lower_bound_s if method == PROPOSED else 0.0)


_warm: set[str] = set()  # methods that this process has planned with


def _plan_cell(value: Value, seed: int, method: str, recipe: Recipe, count: SampleCount) -> Record:
    poses, plan_with = method_of(method).poses, method_of(method).plan
    known, there = _problems(recipe, count)
    problem = poses(known)
    if method not in _warm:  # so that the first cell is not charged for loading compiled kernels
        plan_with(problem, seed)
        _warm.add(method)
    started_s, started_cpu_s = time.perf_counter(), time.process_time()
    plan = require_feasible(problem, plan_with(problem, seed))
    wall_s, cpu_s = time.perf_counter() - started_s, time.process_time() - started_cpu_s
    plan = plan if there is known else _on(poses(there), plan, method)
    found = plan.status == "ok"
    return {
        "value": value,
        "seed": seed,
        "method": method,
        "status": plan.status,
        "reason": plan.reason,
        "delay_s": plan.delay_s if found else None,
        "lower_bound_s": plan.lower_bound_s if found else None,
        "cuts": np.unique(plan.cut_K).tolist() if found else [],
        "ranks": np.unique(plan.rank_K).tolist() if found else [],
        "wall_s": round(wall_s, 6),
        "cpu_s": round(cpu_s, 6),
        "samples": count.how,
        "sit_out": recipe.world.scenario.population.num_clients - problem.num_clients,
    }
