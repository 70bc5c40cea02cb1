"""`wavetune serve`: the servers of a deployed run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wavetune.cli.folders import free_folder, require_run
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
    WithParent,
)
from wavetune.cli.read_recipe import name_of, read_recipe, require_unchanged
from wavetune.cli.run import train


def serve(
    recipe: RecipeOfRun = None,
    certificates: Annotated[
        Path, typer.Option(help="The servers' folder, as `wavetune certificates` writes it.")
    ] = Path("certificates/server"),
    address: Annotated[str, typer.Option(help="HOST:PORT to listen at.")] = "0.0.0.0:7443",
    public: Annotated[
        str | None, typer.Option(help="HOST:PORT under which devices reach it, where that is another.")
    ] = None,
    settings: Settings = None,
    data: Data = None,
    model: Model = None,
    device: DeviceName = None,
    out: RunFolder = None,
    resume: Resume = False,
    seed: Seed = None,
    emulate: Emulate = False,
    deadline: Deadline = 120.0,
    patience: Annotated[float, typer.Option(min=1, help="Seconds to wait for the devices to come.")] = 600.0,
    port_file: Annotated[Path | None, typer.Option(hidden=True)] = None,
    with_parent: WithParent = False,
) -> None:
    """Run the servers of a recipe; its devices come from elsewhere."""
    if with_parent:
        from wavetune.runtimes.launch import exit_with_parent

        exit_with_parent()
    if resume:
        require_unchanged({"--set": settings, "--data": data, "--model": model, "--device": device, "--seed": seed})
    from wavetune.data_plane.certificates import read_identity
    from wavetune.runtimes.deployed import Deployment, engine

    deployment = Deployment(address, read_identity(certificates), public, patience, deadline, emulate)
    folder = out or (Path("runs") / name_of(recipe) if resume else free_folder(name_of(recipe)))
    if resume:
        require_run(folder)
    chosen = None if resume else read_recipe(name_of(recipe), settings, data, model, seed, device)
    train(chosen, folder, resume, engine(deployment, folder, port_file))
