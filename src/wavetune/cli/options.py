"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="Name of a recipe (see `wavetune recipes`) or its JSON file.")
]
RecipeOfRun = Annotated[str | None, typer.Argument(metavar="RECIPE", help="Name of a recipe, or its JSON file.")]
RecipeOrInstance = Annotated[
    str, typer.Argument(metavar="RECIPE|INSTANCE.json", help="A recipe, or a plan instance file.")
]

Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Change a field, e.g. run.rounds=10; repeatable."),
]
Data = Annotated[
    str | None, typer.Option(help="Corpus: a file or folder (JSON, CSV, Parquet, ...), or a Hugging Face id.")
]
Model = Annotated[str | None, typer.Option(help="Model: a name, a folder, or a Hugging Face id.")]
Seed = Annotated[int | None, typer.Option(help="Seed of every random stream.")]
Repeats = Annotated[int, typer.Option(min=1, help="Repeat with this many seeds and average.")]
DeviceName = Annotated[str | None, typer.Option(help="auto, cpu or cuda.")]
RankTable = Annotated[
    Path | None, typer.Option(help="Rounds to target per rank, as `wavetune measure-ranks` writes them.")
]
CodecTable = Annotated[
    Path | None, typer.Option(help="Codecs to choose among at the cut, as `wavetune measure-codecs` writes them.")
]

RunFolder = Annotated[Path | None, typer.Option(help="Run folder; runs/RECIPE by default.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in --out to the same end.")]

Emulate = Annotated[bool, typer.Option("--emulate", help="Pace every stream to the rate that the plan gave it.")]
Deadline = Annotated[
    float, typer.Option(min=0.1, help="Seconds a device has to answer before the round goes on without it.")
]
WithParent = Annotated[bool, typer.Option("--with-parent", hidden=True)]
