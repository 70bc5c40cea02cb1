"""`wavetune run`: plan, train and report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wavetune.cli.exit_codes import INFEASIBLE
from wavetune.cli.folders import free_folder, require_no_run, require_run
from wavetune.cli.options import (
    CodecTable,
    Data,
    DeviceName,
    Model,
    RankTable,
    RecipeOfRun,
    Resume,
    RunFolder,
    Seed,
    Settings,
)
from wavetune.cli.read_recipe import name_of, read_recipe, require_unchanged
from wavetune.console import Console

if TYPE_CHECKING:
    from wavetune.recipe import Recipe
    from wavetune.runtimes.inprocess import Engine


def run(
    recipe: RecipeOfRun = None,
    settings: Settings = None,
    data: Data = None,
    model: Model = None,
    device: DeviceName = None,
    out: RunFolder = None,
    resume: Resume = False,
    seed: Seed = None,
    rank_table: RankTable = None,
    codec_table: CodecTable = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Train in so many Ray workers; on this machine unless --ray is given.")
    ] = None,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Train on the Ray cluster at HOST:PORT, or auto.")
    ] = None,
) -> None:
    """Plan, train and report a recipe."""
    if resume:
        require_unchanged({"--set": settings, "--data": data, "--model": model, "--device": device, "--seed": seed,
                           "--rank-table": rank_table, "--codec-table": codec_table})  # fmt: skip
        folder = out or Path("runs") / name_of(recipe)
        train(None, folder, True, _engine(workers, ray), _command(workers, ray))
        return
    chosen = read_recipe(name_of(recipe), settings, data, model, seed, device, rank_table, codec_table)
    train(chosen, out or free_folder(chosen.name), False, _engine(workers, ray), _command(workers, ray))


def _engine(workers: int | None, ray: str | None) -> Engine | None:
    if workers is None and ray is None:
        return None
    from wavetune.runtimes.ray_engine import engine

    return engine(workers, ray)


def _command(workers: int | None, ray: str | None) -> str:
    """What continues a run in the same way."""
    return "run" + ("" if workers is None else f" --workers {workers}") + ("" if ray is None else f" --ray {ray}")


def train(
    recipe: Recipe | None, folder: Path, resume: bool, engine: Engine | None = None, command: str = "deploy"
) -> None:
    """Run a recipe, or with none the one in the folder, in this process or with an engine; `command` continues it."""
    console = Console(highlight=False)
    if recipe is not None:
        require_no_run(folder)
    from wavetune.recipe import load
    from wavetune.runtimes.inprocess import Infeasible
    from wavetune.runtimes.inprocess import run as run_recipe
    from wavetune.terminal import RunDisplay

    if recipe is None:
        require_run(folder)
        recipe = load(folder / "recipe.json")
    try:
        with RunDisplay(console) as display:
            outcome = run_recipe(recipe, folder, display, resume, engine)
    except KeyboardInterrupt:
        saved = (folder / "recipe.json").exists()
        again = f"stopped; continue with: wavetune {command} --resume --out {folder}"
        console.print(again if saved else "stopped", soft_wrap=True)
        raise
    if isinstance(outcome, Infeasible):
        console.print(f"no plan exists: {outcome.reason}", markup=False)
        raise typer.Exit(INFEASIBLE)
    _say_goodbye(console, folder, outcome)


def _say_goodbye(console: Console, folder: Path, summary: dict[str, Any]) -> None:
    from wavetune.reporting.farewell import last_lines
    from wavetune.reporting.html import write_report

    for line in last_lines(folder, summary, write_report([folder], folder / "report.html")):
        console.print(line, markup=False, soft_wrap=True)
