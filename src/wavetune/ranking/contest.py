"""Every method with every seed, undisturbed and disturbed: runs that are made, continued or read, here or in processes.

A folder holds `methods.json`, what is ranked there, and a run folder for every cell.
"""

import gc
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from wavetune.callbacks import Callback, Watched
from wavetune.errors import ConfigError, JsonError, RunFolderError, WavetuneError
from wavetune.federation.folder_lock import locked
from wavetune.federation.run_folder import explained, write_whole
from wavetune.json_reader import read_json
from wavetune.logs import LOG, kept_in
from wavetune.models import light_imports
from wavetune.ranking.disturbances import disturbed
from wavetune.ranking.entrants import Entrants
from wavetune.recipe import Recipe
from wavetune.runtimes.continued import as_begun
from wavetune.runtimes.engine import Observer
from wavetune.runtimes.inprocess import run
from wavetune.runtimes.session import Infeasible
from wavetune.workers import workers

REWARDS = "rewards"
METHODS, RECIPE = "methods.json", "recipe.json"
Callbacks = Callable[[], list[Callback]]


@dataclass(frozen=True)
class Cell:
    """A run: whose, with which seed, under which disturbance ("" for none)."""

    method: str
    seed: int
    under: str = ""

    @property
    def name(self) -> str:
        """Of its folder."""
        return "-".join(filter(None, (self.method, self.under, f"seed{self.seed}")))


@dataclass(frozen=True)
class Contest:
    """Who is ranked under how many seeds and which disturbances.

    With `lenient` a method that turns out not to fit is left out with the reason; else that is an error.
    """

    entrants: Entrants
    num_seeds: int
    under: tuple[str, ...] = ()
    lenient: bool = False

    @property
    def seeds(self) -> list[int]:
        """The first method's seed and those after it."""
        first = next(iter(self.entrants.values())).run.seed
        return [first + offset for offset in range(self.num_seeds)]

    @property
    def cells(self) -> dict[Cell, Recipe | str]:
        """What is run, seed by seed, or why it cannot be."""
        found = dict[Cell, Recipe | str]()
        for seed in self.seeds:
            for method, recipe in self.entrants.items():
                seeded = replace(recipe, run=replace(recipe.run, seed=seed))
                found[Cell(method, seed)] = seeded
                found |= {Cell(method, seed, under): disturbed(seeded, under) for under in self.under}
        return found


@dataclass
class Outcome:
    """Where the runs are, and why others are not."""

    folder: Path
    contest: Contest
    missing: dict[Cell, str] = field(default_factory=dict[Cell, str])

    @property
    def left_out(self) -> dict[str, str]:
        """Methods without an undisturbed run for each seed, and why."""
        return {cell.method: why for cell, why in self.missing.items() if not cell.under}

    @property
    def methods(self) -> list[str]:
        """Those that have run with all seeds."""
        return [method for method in self.contest.entrants if method not in self.left_out]

    def place(self, method: str, seed: int, under: str = "") -> Path | None:
        """The folder of a finished run."""
        cell = Cell(method, seed, under)
        return None if cell in self.missing else self.folder / cell.name


def is_free_or_of(folder: Path, entrants: Entrants) -> bool:
    """Whether nothing was begun in a folder, or the same with what these methods have in common with those there."""
    if not (folder / METHODS).exists():
        return not (folder / RECIPE).exists()
    begun, now = _begun(folder), _told(entrants, folder)
    return begun is not None and all(begun.get(name, own) == own for name, own in now.items())


def hold(
    contest: Contest,
    folder: Path,
    jobs: int = 1,
    watch: Observer | None = None,
    callbacks: Callbacks = list,
) -> Outcome:
    """Run what is not finished in a folder.

    Args:
        contest: what to run.
        folder: where; made if it does not exist. More methods, seeds or disturbances add to what is there.
        jobs: processes, of one numeric thread each; with 1 all runs in this one.
        watch: shows runs in this process.
        callbacks: makes those that follow one run.

    Raises: RunFolderError if the folder holds another contest, is in use, or a process was killed; ConfigError where a
        method does not fit and the contest is not lenient.
    """
    with locked(folder):
        contest = replace(contest, entrants=claimed(folder, contest.entrants))
        outcome = Outcome(folder, contest)
        runs = dict[Cell, Recipe]()
        for cell, recipe in contest.cells.items():
            if isinstance(recipe, str):
                outcome.missing[cell] = recipe
            elif not (folder / cell.name / "summary.json").exists():
                runs[cell] = recipe
        for wave in _waves(runs, contest.entrants):
            for cell, why in _played(wave, outcome, jobs, watch, callbacks):
                if why and not contest.lenient:
                    raise ConfigError(f"{cell.name}: {why}")
                if why:
                    outcome.missing[cell] = why
    return outcome


def claimed(folder: Path, entrants: Entrants) -> Entrants:
    """The methods as of the day that the contest in this folder was begun, which is today in a new one."""
    if not is_free_or_of(folder, entrants):
        raise RunFolderError(f"{folder} holds a comparison of other settings; choose another --out")
    known = (_begun(folder) or {}) if (folder / METHODS).exists() else {}
    dated = _dated(entrants, folder)
    write_whole(folder / RECIPE, json.dumps(next(iter(dated.values())).to_dict(), indent=1) + "\n")
    write_whole(folder / METHODS, json.dumps(known | _told(entrants, folder), indent=1) + "\n")
    return dated


def _begun(folder: Path) -> dict[str, Any] | None:
    try:
        found = read_json(folder / METHODS)
    except JsonError:
        return None
    return found if isinstance(found, dict) else None


def _dated(entrants: Entrants, folder: Path) -> Entrants:
    return {name: as_begun(recipe, folder / RECIPE) for name, recipe in entrants.items()}


def _told(entrants: Entrants, folder: Path) -> dict[str, Any]:
    """The methods as `methods.json` has them."""
    return {name: json.loads(json.dumps(recipe.to_dict())) for name, recipe in _dated(entrants, folder).items()}


def _waves(runs: Mapping[Cell, Recipe], entrants: Entrants) -> Iterator[dict[Cell, Recipe]]:
    """All at once, or, where reward models are trained, those of the first method before those that copy them."""
    first, recipe = next(iter(entrants.items()))
    if recipe.method.alignment is not None:
        leading = {cell: own for cell, own in runs.items() if cell.method == first and not cell.under}
        yield leading
        runs = {cell: own for cell, own in runs.items() if cell not in leading}
    yield dict(runs)


def _played(
    runs: Mapping[Cell, Recipe], outcome: Outcome, jobs: int, watch: Observer | None, callbacks: Callbacks
) -> Iterator[tuple[Cell, str]]:
    """Each run's cell once it is done, and why it is not, where it could not be."""
    folder, lead = outcome.folder, next(iter(outcome.contest.entrants.items()))
    for cell, recipe in runs.items():
        if recipe.method.alignment is not None and _same_rewards(recipe, lead[1]):
            reuse(folder / Cell(lead[0], cell.seed).name / REWARDS, folder / cell.name / REWARDS)
    tasks = [(cell, recipe, folder / cell.name, callbacks) for cell, recipe in runs.items()]
    if jobs <= 1 or len(tasks) <= 1:
        for number, task in enumerate(tasks, start=1):
            LOG.info(f"run {number} of {len(tasks)}: {_words(task[0])}")
            yield _play(*task, watch)
            gc.collect()  # the model and its hooks refer to each other
        return
    LOG.info(f"{len(tasks)} runs in {min(jobs, len(tasks))} processes")
    with workers(min(jobs, len(tasks)), f"the work in {folder}", light_imports.install) as each:
        for number, (cell, why) in enumerate(each(_play, tasks), start=1):
            LOG.info(f"run {number} of {len(tasks)} is done: {_words(cell)}")
            yield cell, why


def _words(cell: Cell) -> str:
    under = f" under {cell.under.replace('_', ' ')}" if cell.under else ""
    return f"{cell.method}{under}, seed {cell.seed}"


def _play(
    cell: Cell, recipe: Recipe, folder: Path, callbacks: Callbacks, watch: Observer | None = None
) -> tuple[Cell, str]:
    """Make or continue a run; why it could not be, else an empty text."""
    watched = Watched(folder, watch, callbacks())
    begun = (folder / RECIPE).exists()
    try:
        with kept_in(folder):
            outcome = run(recipe, folder, watched, resume=begun)
        if isinstance(outcome, Infeasible):
            return cell, f"no plan exists: {outcome.reason}"
        watched.finished(outcome)
    except RunFolderError:
        raise
    except WavetuneError as error:
        return cell, str(error)
    finally:
        watched.closed()
    return cell, ""


def _same_rewards(one: Recipe, other: Recipe) -> bool:
    own, theirs = one.method.alignment, other.method.alignment
    return own is not None and theirs is not None and (own.helpful, own.safe) == (theirs.helpful, theirs.safe)


def reuse(trained: Path, wanted: Path) -> None:
    """Copy the reward models of a finished run to one that has none yet: they depend on the seed and the data alone."""
    if not trained.exists() or wanted.exists():
        return
    with explained(wanted):
        part = wanted.with_name(wanted.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(trained, part)
        part.rename(wanted)
