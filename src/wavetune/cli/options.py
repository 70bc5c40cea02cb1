"""Arguments and options that several commands share, and the groups in which commands take them."""

from __future__ import annotations

import importlib.util
import pkgutil
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

WORLD, RUN, DEPLOYMENT, OUTPUT = "What is run", "Run folder", "Deployment", "Messages"


def _recipe_names(incomplete: str) -> list[str]:
    """Recipes for the shell to complete, without importing any."""
    found = importlib.util.find_spec("wavetune.recipes")
    folders = [] if found is None else list(found.submodule_search_locations or ())
    names = (module.name for module in pkgutil.iter_modules(folders))
    return [name for name in names if name.startswith(incomplete) and not name.startswith("_")]


class DeviceKind(StrEnum):
    """Where tensors are computed."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


def _recipe(metavar: str = "RECIPE", what: str = "or its JSON file") -> Any:
    help = f"Name of a recipe (see `wavetune recipes`), your own as MODULE:FUNCTION, {what}."
    return typer.Argument(metavar=metavar, help=help, autocompletion=_recipe_names)


RecipeName = Annotated[str, _recipe()]
OtherRecipe = Annotated[str | None, _recipe("[OTHER]", "or its JSON file, to set beside it; its baselines by default")]
RecipeNames = Annotated[list[str] | None, _recipe("[RECIPE]...", "or its JSON file; all that fit by default")]
RecipeOfRun = Annotated[str | None, _recipe()]
RecipeOrInstance = Annotated[str, _recipe("RECIPE|INSTANCE.json", "its JSON file, or a plan instance file")]

Seed = Annotated[
    int | None,
    typer.Option(min=0, help="Seed of every random stream; the recipe's, 0, by default.", rich_help_panel=WORLD),
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL", help="A name, a folder or a Hugging Face id; the recipe's by default.", rich_help_panel=WORLD
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="DATA",
        help="Corpus: a folder or file, or a Hugging Face id; the recipe's by default.",
        rich_help_panel=WORLD,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Change a field, e.g. run.rounds=10; repeatable. `wavetune show RECIPE` lists all.",
        rich_help_panel=WORLD,
    ),
]
DeviceName = Annotated[
    DeviceKind | None,
    typer.Option(help="Where to compute; auto, the GPU where there is one, by default.", rich_help_panel=WORLD),
]
RankTable = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Rounds to target per rank, as `wavetune measure-ranks` writes them.",
        rich_help_panel=WORLD,
    ),
]
CodecTable = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Codecs to choose among at the cut, as `wavetune measure-codecs` writes them.",
        rich_help_panel=WORLD,
    ),
]
Target = Annotated[
    float | None,
    typer.Option(
        help="Loss, or accuracy from 0 to 1 of classes, to count costs to; what half of the methods reach by default."
    ),
]
BudgetS = Annotated[float | None, typer.Option(min=0, metavar="SECONDS", help="Simulated seconds to be good within.")]
BudgetJ = Annotated[float | None, typer.Option(min=0, metavar="JOULES", help="Joules to be good within.")]
BudgetBit = Annotated[float | None, typer.Option(min=0, metavar="BITS", help="Bits to be good within.")]
Jobs = Annotated[
    int | None,
    typer.Option(min=1, help="Processes, of one numeric thread each; by default as many as cores and memory allow."),
]
TrackRuns = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES",
        help="Follow each run with tensorboard, wandb, mlflow, trackio or MODULE:FUNCTION, separated by commas.",
    ),
]


@dataclass(frozen=True)
class Measures:
    """What methods are measured by, beside what their summaries say."""

    target: Target = None
    budget_s: BudgetS = None
    budget_j: BudgetJ = None
    budget_bit: BudgetBit = None

    @property
    def budgets(self) -> dict[str, float]:
        """Those that were given, by resource."""
        found = {"delay": self.budget_s, "energy": self.budget_j, "bits": self.budget_bit}
        return {name: budget for name, budget in found.items() if budget is not None}


Repeats = Annotated[int, typer.Option(min=1, help="Repeat with this many seeds and average.")]

RunFolder = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Run folder; runs/RECIPE by default.", rich_help_panel=RUN)
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Continue the run in --out to the same end.", rich_help_panel=RUN)
]
Rounds = Annotated[
    int | None,
    typer.Option(min=1, help="How many rounds to train; with --resume the run's new total.", rich_help_panel=RUN),
]
Track = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES",
        help="Follow the run with tensorboard, wandb, mlflow, trackio or MODULE:FUNCTION, separated by commas.",
        rich_help_panel=RUN,
    ),
]

Emulate = Annotated[
    bool,
    typer.Option("--emulate", help="Pace every stream to the rate that the plan gave it.", rich_help_panel=DEPLOYMENT),
]
Deadline = Annotated[
    float,
    typer.Option(
        min=0.1,
        help="Seconds a device has to answer before the round goes on without it.",
        rich_help_panel=DEPLOYMENT,
    ),
]
WithParent = Annotated[bool, typer.Option("--with-parent", hidden=True)]


@dataclass(frozen=True)
class Changes:
    """Options that change fields of a recipe; they win over the recipe, and --model and the like over --set."""

    settings: Settings = None
    data: Data = None
    model: Model = None
    seed: Seed = None

    def named(self) -> dict[str, object]:
        """What was given, by the option's name."""
        return _by_option(self)


@dataclass(frozen=True)
class TrainingChanges(Changes):
    """The same for a command that trains."""

    device: DeviceName = None


@dataclass(frozen=True)
class Tables:
    """Measured tables that a planner reads."""

    rank_table: RankTable = None
    codec_table: CodecTable = None

    def named(self) -> dict[str, object]:
        """What was given, by the option's name."""
        return _by_option(self)


def _by_option(options: Changes | Tables) -> dict[str, object]:
    names = {field.name: f"--{field.name.replace('_', '-')}" for field in fields(options)} | {"settings": "--set"}
    return {names[field.name]: getattr(options, field.name) for field in fields(options)}
