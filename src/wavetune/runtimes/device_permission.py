"""What a device lets its servers ask of it: they name data, a model and rewards, and it decides what is opened here.

What an order says beside its recipe is held against that: the servers may ask for nothing that it does not have.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from wavetune.data import movie_reviews
from wavetune.data.corpora import EMBEDDED
from wavetune.data_plane.diagnosis import host_and_port
from wavetune.data_plane.messages_pb2 import RoundOrder
from wavetune.data_plane.refusal import quoted
from wavetune.errors import ConfigError
from wavetune.foreign import allows
from wavetune.given import is_given
from wavetune.models.resolve import BUNDLED, HUB_ID, HUB_IDS
from wavetune.parts import foreign_packages
from wavetune.recipe import Recipe, with_settings

OWN_DATA = (*EMBEDDED, movie_reviews.NAME)
OWN_REWARDS = "wavetune.data.concierge_truth"


@dataclass(frozen=True)
class Allowed:
    """What may be opened beside what wavetune brings along and models of the Hub.

    `data` and `model` take the place of those that the servers name; `others` are packages and modules of other
    people's parts and rewards, files of Python rewards, and folders of trained rewards and classifiers. Of the recipe
    `required` settings, as `--set` takes them, are to change nothing. No further run begins in a state folder that has
    `most_runs` or `most_bytes`, and one run's states are no more than that.
    """

    data: str | None = None
    model: str | None = None
    others: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    most_runs: int = 100
    most_bytes: float = 10e9

    def applied(self, recipe: Recipe) -> Recipe:
        """The recipe with the device's own data and model. Raises ConfigError for what it does not let be opened."""
        world = recipe.world
        for setting in self.required:
            if with_settings(recipe, [setting]) != recipe:
                raise ConfigError(f"this device requires {setting}, and the servers' recipe has another value there")
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


def require_plan(order: RoundOrder, recipe: Recipe, num_layers: int, width: int) -> None:
    """Raise ConfigError unless an order has a cut of a model of so many blocks and a rank for each of its clients."""
    clients = recipe.world.scenario.population.num_clients
    for what, given, least, most in (("cut", order.cuts, 1, num_layers), ("rank", order.ranks, 0, width)):
        if len(given) != clients or not all(least <= value <= most for value in given):
            raise ConfigError(
                f"the order's {what}s are {len(given)} from {min(given, default=0)} to {max(given, default=0)}; its "
                f"recipe has {clients} clients, and its model takes a {what} from {least} to {most}"
            )


def require_round(order: RoundOrder, recipe: Recipe, num_layers: int) -> None:
    """Raise ConfigError unless an order is for a round, or a step of alignment, that its recipe has."""
    run, alignment, align = recipe.run, recipe.method.alignment, order.HasField("align")
    last_step = alignment.learning.steps if align and alignment is not None else -1
    due = order.align.steps <= last_step and order.round + 1 == run.rounds + order.align.steps
    if not (due if align else order.round < run.rounds):
        what = f"step {order.align.steps} of alignment after round" if align else "round"
        raise ConfigError(f"the order is for {what} {order.round + 1}, which its recipe of {run.rounds} rounds has not")
    if order.local_steps > run.local_steps:
        raise ConfigError(f"the order has {order.local_steps} local steps, and its recipe {run.local_steps}")
    most = recipe.world.data.batching.batch_size
    if not 1 <= order.batch_size <= most:
        raise ConfigError(f"the order has batches of {order.batch_size} rows, and its recipe takes 1 to {most}")
    for rate in (order.main_bit_per_s, order.fed_bit_per_s):
        if rate and not 1 <= rate < math.inf:
            raise ConfigError(f"the order has a rate of {rate:g} bit/s; it is to be 1 or more, or 0 where none is kept")
    if strange := [block for block in order.blocks if block >= num_layers]:
        raise ConfigError(f"the order is about block {strange[0]} of a model of {num_layers} blocks")
    if strange := [factor for factor in order.frozen if factor not in ("A", "B")]:
        raise ConfigError(f"the order freezes {quoted(strange[0])}, and the factors of LoRA are A and B")
    if order.address:
        host_and_port(order.address)


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
    """Whether a model's name is one of something on this disk, there or not: who asks is not to learn which."""
    public = model in (*BUNDLED, *HUB_IDS) or (re.fullmatch(HUB_ID, model) and not Path(model).exists())
    return is_given(model) or not public


def _refused(what: str, name: str, option: str) -> ConfigError:
    return ConfigError(f"the servers ask this device to open {what} at {name!r}; if it may, start it with {option}")
