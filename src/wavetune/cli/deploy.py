"""`wavetune deploy`: servers and devices as processes of this machine."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wavetune.cli.folders import free_folder, require_no_run
from wavetune.cli.options import (
    DEPLOYMENT,
    Deadline,
    Emulate,
    RecipeOfRun,
    Resume,
    Rounds,
    RunFolder,
    TrainingChanges,
)
from wavetune.cli.read_recipe import require_unchanged
from wavetune.cli.run import chosen_recipe, continues, folder_to_continue
from wavetune.console import echo
from wavetune.logs import LOG

if TYPE_CHECKING:
    from wavetune.recipe import Recipe


def deploy(
    changes: TrainingChanges,
    recipe: RecipeOfRun = None,
    devices: Annotated[
        int | None,
        typer.Option(min=1, help="Devices; as many as the recipe's cell has.", rich_help_panel=DEPLOYMENT),
    ] = None,
    rounds: Rounds = None,
    out: RunFolder = None,
    resume: Resume = False,
    emulate: Emulate = False,
    deadline: Deadline = 120.0,
    flower: Annotated[
        bool,
        typer.Option(
            "--flower", help="Let Flower carry the rounds: SuperLink and SuperNodes.", rich_help_panel=DEPLOYMENT
        ),
    ] = False,
) -> None:
    """Run a recipe with its servers and every device as processes of this machine, over TLS.

    For example: wavetune deploy sflllm --devices 3 --model tiny --set run.rounds=2
    """
    from wavetune.recipe import load

    if resume:
        require_unchanged({"--devices": devices, **changes.named()})
        folder, chosen = folder_to_continue(recipe, out), None
        if not continues(folder, rounds):
            return
        known = load(folder / "recipe.json")
    else:
        more = () if devices is None else (f"world.scenario.population.num_clients={devices}",)
        chosen = known = chosen_recipe(recipe, changes, rounds, out, None, more)
        folder = out or free_folder(chosen.name)
        require_no_run(folder)
    settings = {"deadline": deadline, "emulate": emulate}
    code = _over_flower(known, folder, settings) if flower else _start(chosen, known, folder, settings)
    if code == 0 and not flower:
        echo(f"Devices:  {folder / 'devices'} (what each kept, and its log)")
    raise typer.Exit(code)


def _over_flower(known: Recipe, folder: Path, settings: dict[str, float | bool]) -> int:
    from wavetune.runtimes.flower.launch import deploy as start

    num_devices = known.world.scenario.population.num_clients
    try:
        return start(known, folder, num_devices, settings, LOG.info)
    except KeyboardInterrupt:
        if (folder / "recipe.json").exists():
            again = f"wavetune deploy --flower --resume --out {shlex.quote(str(folder))}"
            LOG.warning(f"stopped; continue with: {again}")
        raise


def _start(chosen: Recipe | None, known: Recipe, folder: Path, settings: dict[str, float | bool]) -> int:
    from wavetune.runtimes.launch import deploy as start

    options = [*(["--emulate"] if settings["emulate"] else []), "--deadline", str(settings["deadline"])]
    return start(chosen, folder, known.world.scenario.population.num_clients, options, LOG.info)
