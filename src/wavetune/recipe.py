"""A recipe: world, method and run settings, as one frozen value that can be shown, changed, saved and run again."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from annotated_types import Ge, Le, MinLen

from wavetune.data.settings import DataSettings
from wavetune.errors import ConfigError, JsonError
from wavetune.federation.method import Method
from wavetune.json_reader import read_json, value_of
from wavetune.part_values import assign, of_tables, read_part, values_of
from wavetune.wireless.plausible import require_plausible
from wavetune.wireless.presets import fields_of_preset
from wavetune.wireless.scenario import Scenario


@dataclass(frozen=True)
class World:
    """Where training takes place: the cell and its devices, the clients' data, the model."""

    scenario: Scenario = field(default_factory=Scenario)
    data: DataSettings = field(default_factory=DataSettings)
    model: Annotated[str, MinLen(1)] = "smollm2-135m"


@dataclass(frozen=True)
class RunSettings:
    """How long to train, in which precision and where; how often to evaluate and save.

    `bf16` keeps the frozen weights in bf16 with fp32 activations and adapters; `auto` does so where the processor has
    bf16 products. `int8` keeps the weights of the blocks' linear maps as whole steps, a byte each, and computes in
    fp32. `fp64` computes all in double precision, slowly, to tell a difference from rounding. `local_steps`
    0 leaves them to the planner (FedsLLM's alone chooses them). `tokens_per_pass` bounds the tokens that go through
    the model at once, but for a longer row (None: chosen for the device); at 1 clients answer in workers what they
    answer in one process. Behind the first blocks, as far up as nothing is trained, hidden states of rows are kept, up
    to `prefix_mb` megabytes in a file without a name (0: they are computed in every step). With `recompute_blocks` a
    block keeps its input alone for the backward pass, which costs a second forward pass.
    """

    rounds: Annotated[int, Ge(1), Le(1_000_000)] = 20
    local_steps: Annotated[int, Ge(0), Le(10_000)] = 4
    seed: Annotated[int, Ge(0)] = 0
    evaluate_every: Annotated[int, Ge(1)] = 5
    checkpoint_every: Annotated[int, Ge(1)] = 1
    precision: Literal["auto", "fp32", "bf16", "int8", "fp64"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    tokens_per_pass: Annotated[int, Ge(1)] | None = None
    prefix_mb: Annotated[int, Ge(0)] = 2000
    recompute_blocks: bool = False
    samples: Annotated[int, Ge(0)] = 4
    sample_tokens: Annotated[int, Ge(1)] = 48

    def evaluates_after(self, round_index: int) -> bool:
        """Whether validation rows are looked at after a round: every so many, and after the last."""
        return round_index + 1 == self.rounds or (round_index + 1) % self.evaluate_every == 0


@dataclass(frozen=True)
class Recipe:
    """One runnable job."""

    name: str
    world: World
    method: Method
    run: RunSettings = field(default_factory=RunSettings)

    def with_settings(self, *settings: str) -> Recipe:
        """The recipe with `path=value` settings applied. Raises ConfigError naming the field.

        >>> from wavetune import recipe
        >>> recipe("sflllm").with_settings("run.rounds=3", "method.lora.rank=4").run.rounds
        3
        """
        return with_settings(self, settings)

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain JSON values, which `wavetune show` prints."""
        return values_of(self)


def from_dict(values: Mapping[str, Any], packages: Collection[str] | None = None) -> Recipe:
    """The recipe of JSON values, whose kinds may be of these packages beside wavetune's own; None: of anybody's.

    Raises ConfigError naming the field, its value and what is allowed.
    """
    if "preset" in (scenario := _scenario_of(values)):
        whole = _merged(values_of(fields_of_preset(scenario["preset"])), scenario)
        values = {**values, "world": {**values["world"], "scenario": whole}}
    recipe = read_part(Recipe, values, packages=packages)
    require_plausible(recipe.world.scenario)
    return recipe


def save(recipe: Recipe, path: Path) -> None:
    """Write the recipe as JSON."""
    path.write_text(json.dumps(recipe.to_dict(), indent=2) + "\n", encoding="utf-8")


def load(path: Path) -> Recipe:
    """Read a recipe that `save` wrote. Raises ConfigError."""
    try:
        values = read_json(path, finite=False)  # from_dict names the field that is not finite
    except JsonError as error:
        raise ConfigError(f"cannot read a recipe from {path}: {error.reason}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} does not hold a recipe: expected a JSON object")
    return from_dict(values)


def with_settings(recipe: Recipe, settings: Iterable[str], asked: Iterable[str] | None = None) -> Recipe:
    """The recipe with `path=value` settings applied, values read as JSON where they parse, else as text.

    Setting the `kind` of a part exchanges the part, with the defaults of the new one; setting the scenario's `preset`
    sets all that the preset says. Raises ConfigError, also where one of those that are `asked` for (None: of all)
    changes nothing, as every device has a value of its own.
    """
    settings = list(settings)
    values, places = recipe.to_dict(), dict[str, list[str]]()
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set takes path=value, such as run.rounds=10, not {setting!r}")
        value = _parsed(path.strip(), text)
        before = _scenario_of(values).get("preset")
        places[path.strip()] = assign(Recipe, values, path.strip(), value)
        if path.strip() == _PRESET and value != before:
            values["world"]["scenario"] = _merged(values["world"]["scenario"], values_of(fields_of_preset(value)))
    with of_tables(places):
        found = from_dict(values)
    devices = found.world.scenario.population.devices
    for setting in settings if asked is None else asked:
        inside, _, name = setting.partition("=")[0].strip().rpartition(".")
        if inside == _POPULATION and devices and all(getattr(one, name, None) is not None for one in devices):
            raise ConfigError(
                f"{inside}.{name} would change nothing, as all of {inside}.devices have one; leave it out"
            )
    return found


_PRESET, _POPULATION = "world.scenario.preset", "world.scenario.population"


def _scenario_of(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a recipe's values say of its scenario, which may leave out what its preset says."""
    world = values.get("world")
    scenario = world.get("scenario") if isinstance(world, Mapping) else None
    return scenario if isinstance(scenario, Mapping) else {}


def _merged(values: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Values with others over them, field by field; a part of another kind takes the place of the whole part."""
    found = dict(values)
    for name, value in over.items():
        below = found.get(name)
        fields = isinstance(below, Mapping) and isinstance(value, Mapping) and below.get("kind") == value.get("kind")
        found[name] = _merged(cast("Mapping[str, Any]", below), value) if fields else value
    return found


def _parsed(path: str, text: str) -> Any:
    words = {"None": None, "True": True, "False": False}
    try:
        return words[text.strip()] if text.strip() in words else value_of(text.strip())
    except JsonError as error:
        raise ConfigError(f"--set {path}: {error.reason}") from None
