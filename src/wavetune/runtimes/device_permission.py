"""What a device lets its servers ask of it: they name data, a model and rewards, and it decides what is opened here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from wavetune.data import movie_reviews
from wavetune.data.corpora import EMBEDDED
from wavetune.errors import ConfigError
from wavetune.federation.rewards import EmbeddedReward, HubClassifier, PythonReward, RewardPart, TrainedReward
from wavetune.models.resolve import BUNDLED, HUB_IDS
from wavetune.recipe import Recipe

OWN_DATA = (*EMBEDDED, movie_reviews.NAME)
OWN_REWARDS = "wavetune.data.concierge_truth"


@dataclass(frozen=True)
class Allowed:
    """What may be opened beside what wavetune brings along and models of the Hub.

    `data` and `model` take the place of those that the servers name; `others` are modules and files of Python rewards,
    and folders of trained rewards and classifiers.
    """

    data: str | None = None
    model: str | None = None
    others: tuple[str, ...] = ()

    def applied(self, recipe: Recipe) -> Recipe:
        """The recipe with the device's own data and model. Raises ConfigError for what it does not let be opened."""
        world = recipe.world
        if self.data is None and world.data.source not in OWN_DATA:
            raise _refused("data", world.data.source, "--data PATH, your own copy of them")
        data = world.data if self.data is None else replace(world.data, source=self.data)
        model = self.model or world.model
        if self.model is None and _is_here(model):
            raise _refused("the model", model, "--model PATH, your own copy of it")
        for what, name in asked_rewards(recipe):
            if not self._lets(name):
                raise _refused(what, name, f"--allow {name}")
        return replace(recipe, world=replace(world, data=data, model=model))

    def _lets(self, name: str) -> bool:
        return name in self.others or _real(name) in map(_real, self.others)


def asked_rewards(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """What the rewards of a recipe's alignment open on a device: what it is, and its module or path."""
    alignment = recipe.method.alignment
    parts: tuple[RewardPart, ...] = () if alignment is None else (alignment.helpful, alignment.safe)
    for part in parts:
        if isinstance(part, PythonReward):
            place = part.function.rpartition(":")[0]
            if place != OWN_REWARDS:
                yield "the code of a reward", place
        elif isinstance(part, TrainedReward):
            yield "a reward model", part.path
        elif isinstance(part, HubClassifier) and _is_here(part.model):
            yield "a reward model", part.model
        elif isinstance(part, EmbeddedReward) and _is_here(part.training.model):
            yield "a reward model", part.training.model


def options_of(recipe: Recipe) -> list[str]:
    """Options of `wavetune device` that let the servers have all that a recipe names."""
    world = recipe.world
    data = [] if world.data.source in OWN_DATA else ["--data", world.data.source]
    model = ["--model", world.model] if _is_here(world.model) else []
    return [*data, *model, *(word for _, name in asked_rewards(recipe) for word in ("--allow", name))]


def _is_here(model: str) -> bool:
    """Whether a model's name is that of something on this disk."""
    return model not in (*BUNDLED, *HUB_IDS) and Path(model).expanduser().exists()


def _real(name: str) -> str:
    return os.path.realpath(Path(name).expanduser())


def _refused(what: str, name: str, option: str) -> ConfigError:
    return ConfigError(f"the servers ask this device to open {what} at {name!r}; if it may, start it with {option}")
