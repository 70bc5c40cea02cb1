"""`wavetune deploy`: servers and devices as processes of this machine."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wavetune.cli.json_output import wants_json
from wavetune.cli.options import Deadline, Emulate, OfRun, RecipeOfRun, TrainingChanges, of_deployment
from wavetune.cli.read_recipe import require_unchanged
from wavetune.cli.run import meant_run
from wavetune.console import echo
from wavetune.errors import ConfigError
from wavetune.logs import LOG

if TYPE_CHECKING:
    from wavetune.recipe import Recipe


def deploy(
    changes: TrainingChanges,
    own: OfRun,
    recipe: RecipeOfRun = None,
    devices: Annotated[int | None, of_deployment(min=1, help="Devices; as many as the recipe's cell has.")] = None,
    emulate: Emulate = False,
    deadline: Deadline = 120.0,
    flower: Annotated[
        bool, of_deployment("--flower", help="Let Flower carry the rounds: SuperLink and SuperNodes.")
    ] = False,
) -> None:
    """Run a recipe with its servers and every device as processes of this machine, over TLS.

    For example: wavetune deploy sflllm --devices 3 --model tiny --set run.rounds=2
    """
    from wavetune.recipe import load

    if own.resume:
        require_unchanged({"--devices": devices})
    more = () if devices is None else (f"world.scenario.population.num_clients={devices}",)
    if (found := meant_run(recipe, changes, own, more=more)) is None:
        return
    chosen, folder = found
    known = chosen or load(folder / "recipe.json")
    if flower and own.track:
        raise ConfigError("--track does not go with --flower: Flower starts the servers; run without one of them")
    settings = {"deadline": deadline, "emulate": emulate}
    if flower:
        code = _over_flower(known, folder, settings)
    else:
        from wavetune.api.deploy import start

        code = start(chosen, folder, emulate, deadline, own.track or "", as_json=wants_json())
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
