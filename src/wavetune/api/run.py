"""Run a recipe in this process: a run folder with records, adapters and a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wavetune.api.callbacks import Given, callbacks_of
from wavetune.api.folders import free_folder, require_no_run, require_run
from wavetune.api.load_run import Run, load_run
from wavetune.api.preflight import check
from wavetune.api.recipe import as_recipe
from wavetune.errors import ConfigError, InfeasibleError
from wavetune.logs import LOG, kept_in
from wavetune.recipe import Recipe, load

if TYPE_CHECKING:
    from wavetune.callbacks import Callback
    from wavetune.runtimes.engine import Engine, Observer


def run(
    recipe: Recipe | str | Path | None,
    out: str | Path | None = None,
    callbacks: Sequence[Given] = (),
    *,
    resume: bool = False,
    rounds: int | None = None,
    workers: int | None = None,
    ray: str | None = None,
) -> Run:
    """Run a recipe: plan, train, evaluate, write adapters and report; what happens is told to the logger `wavetune`.

    Args:
        recipe: a recipe, its name or file; with `resume` it may be None, else it must be that of the run.
        out: the run's folder; by default `runs/RECIPE`, with a number where that exists.
        callbacks: what follows the run: `Callback` objects, functions of a record, names of trackers (`tensorboard`,
            `wandb`, `mlflow`, `trackio`) or of one's own as `module:function`. One that fails is left out.
        resume: go on with the run in `out`, to the same end as without the stop.
        rounds: how many; with `resume` the new total.
        workers: train in so many Ray workers; on this machine unless `ray` names a cluster.
        ray: address of a Ray cluster.

    Raises:
        ConfigError, DataError, ModelError: for what the recipe names; RunFolderError: of the folder; InfeasibleError:
            where the world admits no plan.
    """
    chosen, folder = meant(recipe, out, resume, rounds)
    if chosen is None and is_finished(folder):
        return load_run(folder)
    return train(chosen, folder, callbacks_of(callbacks), engine_of(workers, ray))


def meant(
    recipe: Recipe | str | Path | None, out: str | Path | None, resume: bool, rounds: int | None, *settings: str
) -> tuple[Recipe | None, Path]:
    """The checked recipe of a new run, None of one that goes on in its folder, and the folder."""
    if resume:
        if out is None:
            raise ConfigError("resume needs out, the folder of the run")
        to_continue(Path(out), rounds, recipe)
        return None, Path(out)
    if recipe is None:
        raise ConfigError("no recipe is given; give one, or resume=True with the folder of a run")
    chosen = as_recipe(recipe).with_settings(*settings, *([] if rounds is None else [f"run.rounds={rounds}"]))
    folder = free_folder(chosen.name) if out is None else Path(out)
    require_no_run(folder)
    check(chosen)
    check(out=folder)
    return chosen, folder


def is_finished(folder: Path) -> bool:
    """Whether the run in a folder has come to its end."""
    return (folder / "summary.json").exists()


def to_continue(folder: Path, rounds: int | None, recipe: Recipe | str | Path | None = None) -> bool:
    """Whether the run in a folder is to go on, to so many rounds; a finished one is not. Raises RunFolderError."""
    require_run(folder)
    check(out=folder)
    if recipe is not None:
        _require_same(as_recipe(recipe), folder)
    if rounds is not None:
        from wavetune.runtimes.extend import extend

        for sentence in extend(folder, rounds):
            LOG.info(sentence)
    return not is_finished(folder)


def _require_same(recipe: Recipe, folder: Path) -> None:
    """ConfigError where another recipe is given than that of the run; it notes what was left open, such as a day."""
    begun = load(folder / "recipe.json")
    if (recipe.name, recipe.world.model, recipe.world.data.source) != (
        begun.name,
        begun.world.model,
        begun.world.data.source,
    ):
        raise ConfigError(
            f"the run in {folder} is one of {begun.name} with {begun.world.model} and {begun.world.data.source}; a run "
            f"continues with what it began with, not with {recipe.name}, {recipe.world.model} and "
            f"{recipe.world.data.source}"
        )
    require_settled(recipe, folder)


def require_settled(recipe: Recipe, folder: Path) -> None:
    """ConfigError where a value that results depend on is another than in the run of a folder, whose template may say
    more, as the model's own.
    """
    from wavetune.runtimes.inputs import differs, said, settled

    given, begun = settled(recipe), settled(load(folder / "recipe.json"))
    given["world"]["data"]["template"] = said(recipe.world.data.template)
    if path := differs(given, begun, recipe):
        raise ConfigError(
            f"{path} is not as it was when the run in {folder} began, and a run continues with the recipe in its "
            "folder; leave the recipe out, or start a new run with another --out"
        )


def engine_of(workers: int | None, ray: str | None) -> Engine | None:
    """What trains in Ray workers; None where this process does."""
    if workers is None and ray is None:
        return None
    LOG.info("loading Ray")
    from wavetune.runtimes.ray_engine import engine

    return engine(workers, ray)


def train(
    recipe: Recipe | None,
    folder: Path,
    callbacks: Sequence[Callback] = (),
    engine: Engine | None = None,
    display: Observer | None = None,
) -> Run:
    """Run a recipe into a folder, or with none the one that is there, in this process or with an engine."""
    if recipe is None:
        require_run(folder)
    else:
        require_no_run(folder)
    if engine is None:  # who made one has said so
        LOG.info("loading PyTorch and transformers")
    from wavetune.callbacks import Watched
    from wavetune.reporting.html import write_report
    from wavetune.runtimes.inprocess import run as run_recipe
    from wavetune.runtimes.session import Infeasible

    watched = Watched(folder, display, callbacks)
    with kept_in(folder):
        try:
            begun = recipe or load(folder / "recipe.json")
            outcome = run_recipe(begun, folder, watched, resume=recipe is None, engine=engine)
            if isinstance(outcome, Infeasible):
                raise InfeasibleError(f"no plan exists: {outcome.reason}")
            write_report([folder], folder / "report.html")
            watched.finished(outcome)
        finally:
            watched.closed()
    return load_run(folder)
