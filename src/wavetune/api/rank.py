"""Recipes on the same data, model, cell and seeds: ranked, or one beside others."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavetune import recipes
from wavetune.api.callbacks import Given, callbacks_of
from wavetune.api.folders import named_after
from wavetune.api.load_run import Run, load_run
from wavetune.api.preflight import check
from wavetune.api.recipe import as_recipe
from wavetune.console import given_command
from wavetune.errors import ConfigError
from wavetune.logs import LOG
from wavetune.recipe import Recipe

if TYPE_CHECKING:
    from wavetune.ranking.contest import Contest
    from wavetune.ranking.entrants import Entrants
    from wavetune.runtimes.engine import Observer


@dataclass(frozen=True)
class Ranking:
    """A finished ranking or comparison: its folder, its table as the JSON file there holds it, and the report that sets
    the runs of the first seed side by side.
    """

    folder: Path
    table: dict[str, Any]
    report: Path

    def rows(self, differences: bool = False) -> list[tuple[str, ...]]:
        """A heading and rows of text: means, or with `differences` what is paired over seeds."""
        from wavetune.ranking.table import rows_of

        return rows_of(self.table, differences)

    def run(self, method: str = recipes.PROPOSED, seed: int | None = None, under: str = "") -> Run:
        """One of its runs, `under` `outage` or `lost_devices` if it was disturbed. Raises RunFolderError where there is
        none.
        """
        from wavetune.ranking.contest import Cell

        return load_run(self.folder / Cell(method, self.table["seeds"][0] if seed is None else seed, under).name)


def rank(
    chosen: Sequence[Recipe | str | Path] | None = None,
    *,
    world: Recipe | str | Path | None = None,
    seeds: int = 3,
    target: float | None = None,
    budgets: Mapping[str, float] | None = None,
    under: str = "outage,lost_devices",
    evaluate_every: int = 1,
    leave_out: bool = False,
    out: str | Path | None = None,
    jobs: int = 1,
    callbacks: Sequence[Given] = (),
    display: Observer | None = None,
) -> Ranking:
    """Rank recipes by what they cost to a target, how good they are within budgets, and what disturbances do to them.

    What is done already is kept, so that the same call goes on after a stop.

    Args:
        chosen: recipes, their names or files; None: all there are that fit the data.
        world: the recipe whose data, model, cell, seed and precision all take; None: the first one, or `sflllm`.
        seeds: how many seeds each is run with, from the world's on.
        target: the loss, or accuracy of classes, that costs are counted to; None: what half of the methods reach.
        budgets: `delay` (s), `energy` (J) and `bits` to find the best quality within; those that are not given: what
            the method in the middle spends.
        under: disturbances, with commas; `nothing` for none.
        evaluate_every: rounds from one evaluation to the next, which is how finely costs are known.
        leave_out: leave out, with the reason, what does not fit instead of refusing it; so it is where none are named.
        out: the folder; `runs/ranking` by default.
        jobs: processes of one numeric thread each; more than 1 only from a script that is guarded by
            `if __name__ == "__main__"`.
        callbacks: what follows each run, as of `run`; with more jobs names alone.
        display: what shows the progress of each run in this process; the logger `wavetune` by default.

    Raises:
        ConfigError: a recipe that does not fit the data, of those that are named; RunFolderError: of the folder.
    """
    named = [as_recipe(one) for one in chosen] if chosen is not None else _everyone(world)
    if not named:
        raise ConfigError("no recipe is named to rank; give two or more, or none for all")
    first, lenient = as_recipe(world) if world is not None else named[0], leave_out or chosen is None
    check(first)
    from wavetune.ranking.disturbances import disturbances_of
    from wavetune.ranking.entrants import fitting, side_by_side, why_not
    from wavetune.runtimes.world import count_samples

    first, *named = (replace(one, run=replace(one.run, evaluate_every=evaluate_every)) for one in (first, *named))
    disturbances, left_out = disturbances_of(under), dict[str, str]()
    entrants, counted = side_by_side(named, first), count_samples(first)
    if lenient:
        entrants, left_out = fitting(entrants, counted)
    for name, recipe in entrants.items():
        if reason := why_not(recipe, counted):
            raise ConfigError(f"{name} cannot be ranked here: {reason}")
    for name, reason in left_out.items():
        LOG.info(f"{name} is left out: {reason}")
    from wavetune.ranking.contest import Contest

    contest = Contest(entrants, seeds, disturbances, lenient)
    folder = Path(out) if out is not None else _free(Path("runs/ranking"), entrants)
    return _held(contest, folder, "ranking", "", target, budgets, jobs, callbacks, display, left_out)


def compare(
    recipe: Recipe | str | Path,
    other: Recipe | str | Path | None = None,
    *,
    seeds: int = 3,
    methods: str | Sequence[str] | None = None,
    target: float | None = None,
    budgets: Mapping[str, float] | None = None,
    under: str = "nothing",
    out: str | Path | None = None,
    jobs: int = 1,
    callbacks: Sequence[Given] = (),
    display: Observer | None = None,
) -> Ranking:
    """A ranking of two: a recipe and another one, or its baselines, for as many rounds; what is done already is kept.

    Args:
        recipe: a recipe, its name or file; it runs as `proposed`, and the others are on its data, model and cell.
        other: what to set beside it; None: its baselines, or `fedavg_lora` where it names none.
        methods: baselines to run; None: all.
        seeds, target, budgets, under, jobs, callbacks, display: as of `rank`.
        out: the folder; `runs/RECIPE-comparison` by default.

    Raises:
        ConfigError: an unknown method, or a recipe that does not fit; RunFolderError: of the folder.
    """
    first = as_recipe(recipe)
    wanted = [one.strip() for one in methods.split(",")] if isinstance(methods, str) else methods and [*methods]
    if other is not None and wanted:
        raise ConfigError("--methods chooses among a recipe's baselines and does not go with another recipe")
    from wavetune.ranking.disturbances import disturbances_of
    from wavetune.ranking.entrants import beside_another, beside_baselines, why_not

    entrants = beside_baselines(first, wanted) if other is None else beside_another(first, as_recipe(other))
    folder = Path(out) if out is not None else _free(Path("runs") / f"{named_after(first.name)}-comparison", entrants)
    check(first)
    for name, own in entrants.items():
        if reason := why_not(own):
            raise ConfigError(f"{name} cannot be compared here: {reason}")
    from wavetune.ranking.contest import Contest

    contest = Contest(entrants, seeds, disturbances_of(under))
    return _held(contest, folder, "comparison", recipes.PROPOSED, target, budgets, jobs, callbacks, display)


def _everyone(world: Recipe | str | Path | None) -> list[Recipe]:
    """The recipe of the world, and all others."""
    first = as_recipe("sflllm" if world is None else world)
    return [first, *(as_recipe(name) for name in recipes.names() if name != first.name)]


def _held(
    contest: Contest,
    folder: Path,
    stem: str,
    against: str,
    target: float | None,
    budgets: Mapping[str, float] | None,
    jobs: int,
    callbacks: Sequence[Given],
    display: Observer | None,
    left_out: Mapping[str, str] | None = None,
) -> Ranking:
    """Run all and write table, figure, page and report."""
    if jobs < 1:
        raise ConfigError(f"--jobs is {jobs} but must be at least 1")
    check(out=folder)
    if jobs > 1 and not all(isinstance(one, str) for one in callbacks):
        raise ConfigError("callbacks that are objects follow runs in this process alone; set jobs=1 or name them")
    callbacks_of(callbacks)  # what is wrong with them is found here
    LOG.info("loading PyTorch and transformers")
    from wavetune.callbacks import Watched
    from wavetune.federation.folder_lock import locked
    from wavetune.federation.run_folder import write_whole
    from wavetune.ranking.contest import hold
    from wavetune.ranking.figure import save_figure
    from wavetune.ranking.page import as_markdown
    from wavetune.ranking.table import table_of
    from wavetune.reporting.html import write_report

    outcome = hold(contest, folder, jobs, display or Watched(folder, None, ()), partial(callbacks_of, callbacks))
    if not outcome.methods:
        name, why = next(iter(outcome.left_out.items()))
        raise ConfigError(f"no method could run; {name}: {why}")
    table = table_of(outcome, target, budgets, against)
    table |= {"command": given_command(), "left_out": {**(left_out or {}), **table["left_out"]}}
    with locked(folder):
        save_figure(outcome, table, folder / "figure")
        first = next(iter(outcome.contest.entrants.values()))
        write_whole(folder / f"{stem}.json", json.dumps(table, indent=1, allow_nan=False) + "\n")
        write_whole(folder / f"{stem}.md", as_markdown(first, table, "figure.svg"))
        seed = table["seeds"][0]
        report = write_report([folder / f"{method}-seed{seed}" for method in outcome.methods], folder / "report.html")
    return Ranking(folder, table, report)


def _free(named: Path, entrants: Entrants) -> Path:
    """The folder, or, where it holds something of other settings, the first such name with a number."""
    from wavetune.ranking.contest import is_free_or_of

    folders = (named if number == 1 else named.with_name(f"{named.name}-{number}") for number in count(1))
    return next(folder for folder in folders if is_free_or_of(folder, entrants))
