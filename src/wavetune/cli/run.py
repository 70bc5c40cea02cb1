"""`wavetune run`: plan, train and report."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wavetune.api.folders import free_folder, named_after, require_no_run, require_run
from wavetune.api.preflight import check
from wavetune.cli.json_output import result
from wavetune.cli.options import OfRun, RecipeOfRun, Tables, TrainingChanges
from wavetune.cli.read_recipe import name_of, read_recipe, require_unchanged
from wavetune.console import echo
from wavetune.errors import ConfigError
from wavetune.logs import LOG

if TYPE_CHECKING:
    from wavetune.recipe import Recipe
    from wavetune.runtimes.engine import Engine


def run(
    changes: TrainingChanges,
    tables: Tables,
    own: OfRun,
    recipe: RecipeOfRun = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Train in so many Ray workers; on this machine unless --ray is given.")
    ] = None,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Train on the Ray cluster at HOST:PORT, or auto.")
    ] = None,
) -> None:
    """Plan, train and report a recipe.

    For a first try: wavetune run sflllm --model tiny --set run.rounds=2

    With your data: wavetune run sflllm --data FOLDER --model Qwen/Qwen3-0.6B --out runs/mine
    """
    if (found := meant_run(recipe, changes, own, tables)) is not None:
        from wavetune.api.run import engine_of

        train(*found, engine_of(workers, ray), _command(workers, ray), own.track)


def meant_run(
    recipe: str | None,
    changes: TrainingChanges,
    own: OfRun,
    tables: Tables | None = None,
    more: tuple[str, ...] = (),
    tell: bool = True,
) -> tuple[Recipe | None, Path] | None:
    """The recipe of a new run (None: of the one in the folder, which goes on), and its folder.

    None of a finished one, which is told of where there is somebody to `tell`.
    """
    if own.resume:
        require_unchanged({**changes.named(), **({} if tables is None else tables.named())})
        folder = _folder_to_continue(recipe, own.out)
        return (None, folder) if _continues(folder, own.rounds, tell) else None
    chosen = chosen_recipe(recipe, changes, own.rounds, own.out, tables, more)
    return chosen, own.out or free_folder(chosen.name)


def chosen_recipe(
    recipe: str | None,
    changes: TrainingChanges,
    rounds: int | None,
    out: Path | None,
    tables: Tables | None = None,
    more: tuple[str, ...] = (),
) -> Recipe:
    """The recipe of a new run, once all is checked that can be before anything large is loaded."""
    from wavetune.api.recipe import require_readable

    name = name_of(recipe)
    require_readable(name)
    check(source=changes.data, model=changes.model, device=changes.device and changes.device.value, out=out)
    if out is not None:
        require_no_run(out)
    more = more if rounds is None else (*more, f"run.rounds={rounds}")
    chosen = read_recipe(name, changes, tables, more)
    check(chosen)
    return chosen


def _folder_to_continue(recipe: str | None, out: Path | None) -> Path:
    """Where the run is that --resume means. Raises ConfigError if it is one of another recipe than is named."""
    if recipe is None or out is None:
        return out or Path("runs") / named_after(name_of(recipe))
    require_run(out)
    from wavetune.api.recipe import as_recipe, require_readable
    from wavetune.api.recipe_file import ENDINGS
    from wavetune.api.run import require_settled
    from wavetune.recipe import load

    require_readable(recipe)
    own, given = load(out / "recipe.json").name, as_recipe(recipe) if recipe.endswith(ENDINGS) else None
    if (recipe if given is None else given.name) != own:
        raise ConfigError(
            f"{recipe} does not go with --resume: the run in {out} is one of {own}, and a run continues with the "
            "recipe in its folder; leave it out"
        )
    if given is not None:
        require_settled(given, out)
    return out


def _continues(folder: Path, rounds: int | None, tell: bool) -> bool:
    """Whether a run is to be continued, to so many rounds; a finished one is told of. Raises RunFolderError."""
    from wavetune.api.run import to_continue

    if to_continue(folder, rounds) or not tell:
        return True
    from wavetune.api.load_run import load_run

    finished = load_run(folder)
    report = folder / "report.html"
    if not report.exists():
        finished.report()
    result(finished.summary)
    echo(f"the run in {folder} is finished; its report: {report}")
    echo(f"To train it further: wavetune run --resume --rounds TOTAL --out {shlex.quote(str(folder))}")
    return False


def _command(workers: int | None, ray: str | None) -> str:
    """What continues a run in the same way."""
    return "run" + ("" if workers is None else f" --workers {workers}") + ("" if ray is None else f" --ray {ray}")


def train(
    recipe: Recipe | None,
    folder: Path,
    engine: Engine | None = None,
    command: str = "deploy",
    track: str | None = None,
) -> None:
    """Run a recipe, or with none the one in the folder, in this process or with an engine; `command` continues it."""
    started = time.perf_counter()
    from wavetune.api.callbacks import callbacks_of
    from wavetune.api.run import train as train_into
    from wavetune.reporting.farewell import last_lines
    from wavetune.terminal import RunDisplay

    try:
        callbacks = callbacks_of(track or "")
        with RunDisplay() as display:
            finished = train_into(recipe, folder, callbacks, engine, display)
    except KeyboardInterrupt:
        again = f"stopped; continue with: wavetune {command} --resume --out {shlex.quote(str(folder))}"
        LOG.warning(again if (folder / "recipe.json").exists() else "stopped")
        raise
    result(finished.summary)
    for line in last_lines(folder, finished.summary, folder / "report.html", time.perf_counter() - started):
        echo(line)
