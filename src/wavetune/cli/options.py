"""Arguments and options that several commands share, and the groups in which commands take them."""

import importlib.util
import pkgutil
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

# Options by the panel of `--help` that shows them.
of_world = partial(typer.Option, rich_help_panel="What is run")
of_run = partial(typer.Option, rich_help_panel="Run folder")
of_deployment = partial(typer.Option, rich_help_panel="Deployment")
of_messages = partial(typer.Option, rich_help_panel="Messages")


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

Seed = Annotated[int | None, of_world(min=0, help="Seed of every random stream; the recipe's, 0, by default.")]
Model = Annotated[
    str | None, of_world(metavar="MODEL", help="A name, a folder or a Hugging Face id; the recipe's by default.")
]
Data = Annotated[
    str | None,
    of_world(
        metavar="DATA", help="Corpus: a folder or file, module:function, or a Hugging Face id; the recipe's by default."
    ),
]
Settings = Annotated[
    list[str] | None,
    of_world(
        "--set",
        metavar="PATH=VALUE",
        help="Change a field, e.g. run.rounds=10; repeatable. `wavetune show RECIPE` lists all.",
    ),
]
DeviceName = Annotated[
    DeviceKind | None, of_world(help="Where to compute; auto, the GPU where there is one, by default.")
]
RankTable = Annotated[
    Path | None, of_world(metavar="FILE", help="Rounds to target per rank, as `wavetune measure-ranks` writes them.")
]
CodecTable = Annotated[
    Path | None,
    of_world(metavar="FILE", help="Codecs to choose among at the cut, as `wavetune measure-codecs` writes them."),
]
RunDir = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run folder.")]
OneClient = Annotated[int | None, typer.Option(min=0, help="Use this client's adapter instead of the global one.")]
Repeats = Annotated[int, typer.Option(min=1, help="Repeat with this many seeds and average.")]

Rounds = Annotated[int | None, of_run(min=1, help="How many rounds to train; with --resume the run's new total.")]
_FOLLOW = "Follow {} with tensorboard, wandb, mlflow, trackio or MODULE:FUNCTION, separated by commas."


@dataclass(frozen=True)
class OfRun:
    """How long a run is, where it is written, whether it goes on, and who follows it."""

    rounds: Rounds = None
    out: Annotated[Path | None, of_run(metavar="FOLDER", help="Run folder; runs/RECIPE by default.")] = None
    resume: Annotated[bool, of_run("--resume", help="Continue the run in --out to the same end.")] = False
    track: Annotated[str | None, of_run(metavar="NAMES", help=_FOLLOW.format("the run"))] = None


@dataclass(frozen=True)
class Trials:
    """How methods are tried side by side, and what they are measured by beside what their summaries say."""

    target: Annotated[
        float | None,
        typer.Option(
            help="Loss, or accuracy from 0 to 1 of classes, to count costs to; what half of the methods reach by "
            "default."
        ),
    ] = None
    budget_s: Annotated[
        float | None, typer.Option(min=0, metavar="SECONDS", help="Simulated seconds to be good within.")
    ] = None
    budget_j: Annotated[float | None, typer.Option(min=0, metavar="JOULES", help="Joules to be good within.")] = None
    budget_bit: Annotated[float | None, typer.Option(min=0, metavar="BITS", help="Bits to be good within.")] = None
    rounds: Rounds = None
    seeds: Annotated[int, typer.Option(min=1, max=10_000, help="Seeds each method is run with.")] = 3
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1, help="Processes, of one numeric thread each; by default as many as cores and memory allow."
        ),
    ] = None
    track: Annotated[str | None, typer.Option(metavar="NAMES", help=_FOLLOW.format("each run"))] = None

    @property
    def measures(self) -> dict[str, Any]:
        """Seeds, target, and the budgets that were given by resource."""
        found = {"delay": self.budget_s, "energy": self.budget_j, "bits": self.budget_bit}
        budgets = {name: budget for name, budget in found.items() if budget is not None}
        return {"seeds": self.seeds, "target": self.target, "budgets": budgets}


Emulate = Annotated[bool, of_deployment("--emulate", help="Pace every stream to the rate that the plan gave it.")]
Deadline = Annotated[
    float, of_deployment(min=0.1, help="Seconds a device has to answer before the round goes on without it.")
]
WithParent = Annotated[bool, typer.Option("--with-parent", hidden=True)]


@dataclass(frozen=True)
class _Named:
    def named(self) -> dict[str, object]:
        """What was given, by the option's name."""
        names = {field.name: f"--{field.name.replace('_', '-')}" for field in fields(self)} | {"settings": "--set"}
        return {names[field.name]: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class Changes(_Named):
    """Options that change fields of a recipe; they win over the recipe, and --model and the like over --set."""

    settings: Settings = None
    data: Data = None
    model: Model = None
    seed: Seed = None


@dataclass(frozen=True)
class TrainingChanges(Changes):
    """The same for a command that trains."""

    device: DeviceName = None


@dataclass(frozen=True)
class Tables(_Named):
    """Measured tables that a planner reads."""

    rank_table: RankTable = None
    codec_table: CodecTable = None
