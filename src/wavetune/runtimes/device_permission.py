"""What a device lets its servers ask of it: they name data, a model and rewards, and it decides what is opened here."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from wavetune.data import movie_reviews
from wavetune.data.corpora import EMBEDDED
from wavetune.errors import ConfigError
from wavetune.foreign import allows
from wavetune.given import is_given
from wavetune.models.resolve import BUNDLED, HUB_IDS
from wavetune.parts import foreign_packages
from wavetune.recipe import Recipe

OWN_DATA = (*EMBEDDED, movie_reviews.NAME)
OWN_REWARDS = "wavetune.data.concierge_truth"


@dataclass(frozen=True)
class Allowed:
    """What may be opened beside what wavetune brings along and models of the Hub.

    `data` and `model` take the place of those that the servers name; `others` are packages and modules of other
    people's parts and rewards, files of Python rewards, and folders of trained rewards and classifiers.
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
            if not allows(self.others, name):
                raise _refused(what, name, f"--allow {name}")
        return replace(recipe, world=replace(world, data=data, model=model))


def asked_rewards(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """What the rewards of a recipe's alignment open on a device: what it is, and its module or path."""
    alignment = recipe.method.alignment
    for part in () if alignment is None else (alignment.helpful, alignment.safe):
        what, name = part.asks_for
        if name != OWN_REWARDS and not (part.may_be_public and not _is_here(name)):
            yield what, name


def options_of(recipe: Recipe) -> list[str]:
    """Options of `wavetune device` that let the servers have all that a recipe names."""
    world = recipe.world
    data = [] if world.data.source in OWN_DATA else ["--data", world.data.source]
    model = ["--model", world.model] if _is_here(world.model) else []
    others = dict.fromkeys((*foreign_packages(recipe), *(name for _, name in asked_rewards(recipe))))
    return [*data, *model, *(word for name in others for word in ("--allow", name))]


def _is_here(model: str) -> bool:
    """Whether a model's name is that of something on this disk."""
    return is_given(model) or (model not in (*BUNDLED, *HUB_IDS) and Path(model).expanduser().exists())


def _refused(what: str, name: str, option: str) -> ConfigError:
    return ConfigError(f"the servers ask this device to open {what} at {name!r}; if it may, start it with {option}")
