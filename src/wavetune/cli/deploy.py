"""`wavetune deploy`: servers and devices as processes of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wavetune.cli.folders import free_folder, require_no_run, require_run
from wavetune.cli.options import (
    Data,
    Deadline,
    DeviceName,
    Emulate,
    Model,
    RecipeOfRun,
    Resume,
    RunFolder,
    Seed,
    Settings,
)
from wavetune.cli.read_recipe import name_of, read_recipe, require_unchanged
from wavetune.console import Console


def deploy(
    recipe: RecipeOfRun = None,
    devices: Annotated[int | None, typer.Option(min=1, help="Devices; as many as the recipe's cell has.")] = None,
    settings: Settings = None,
    data: Data = None,
    model: Model = None,
    device: DeviceName = None,
    out: RunFolder = None,
    resume: Resume = False,
    seed: Seed = None,
    emulate: Emulate = False,
    deadline: Deadline = 120.0,
    flower: Annotated[
        bool, typer.Option("--flower", help="Let Flower carry the rounds: SuperLink and SuperNodes.")
    ] = False,
) -> None:
    """Run a recipe with its servers and every device as processes of this machine, over TLS."""
    from wavetune.recipe import load
    from wavetune.runtimes.launch import deploy as start

    console = Console(highlight=False)
    if resume:
        require_unchanged({"--devices": devices, "--set": settings, "--data": data, "--model": model,
                           "--device": device, "--seed": seed})  # fmt: skip
        folder = out or Path("runs") / name_of(recipe)
        require_run(folder)
        chosen, known = None, load(folder / "recipe.json")
    else:
        count = [] if devices is None else [f"world.scenario.population.num_clients={devices}"]
        chosen = known = read_recipe(name_of(recipe), [*(settings or []), *count], data, model, seed, device)
        folder = out or free_folder(chosen.name)
    num_devices = known.world.scenario.population.num_clients
    if flower:
        from wavetune.runtimes.flower.launch import deploy as start_with_flower

        if chosen is not None:
            require_no_run(folder)
        elif (folder / "summary.json").exists():
            console.print(f"the run in {folder} is finished", markup=False, soft_wrap=True)
            return
        settings_of_app = {"deadline": deadline, "emulate": emulate}
        try:
            code = start_with_flower(known, folder, num_devices, settings_of_app, console.print)
        except KeyboardInterrupt:
            if (folder / "recipe.json").exists():
                again = f"stopped; continue with: wavetune deploy --flower --resume --out {folder}"
                console.print(again, markup=False, soft_wrap=True)
            raise
        raise typer.Exit(code)
    options = [*(["--emulate"] if emulate else []), "--deadline", str(deadline)]
    code = start(chosen, folder, num_devices, options, console.print)
    if code == 0:
        console.print(f"Devices:  {folder / 'devices'} (what each kept, and its log)", markup=False, soft_wrap=True)
    raise typer.Exit(code)
