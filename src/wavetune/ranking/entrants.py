"""Who is ranked: recipes in one world, or a recipe with its baselines."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from wavetune import recipes
from wavetune.errors import ConfigError, WavetuneError, nearest
from wavetune.recipe import Recipe, with_settings
from wavetune.recipes import PROPOSED
from wavetune.runtimes.world import SampleCount

Entrants = dict[str, Recipe]
"""Each by the name of its runs, the first one's world being that of all."""

_ENOUGH = 10**6  # blocks and width, which an unknown model may have


def beside_baselines(recipe: Recipe, methods: Sequence[str] | None = None) -> Entrants:
    """A recipe and its own baselines, or the one that stands for them where it names none; `methods` chooses among
    them.

    Raises ConfigError for an unknown method.
    """
    settings = recipes.baselines_of(recipe.name)
    plain = {} if settings else {recipes.rival_of(recipe.name): None}
    known = (PROPOSED, *settings, *plain)
    for method in methods or ():
        if method not in known:
            raise ConfigError(f"--methods has {method!r}; {nearest(method, known)}")
    chosen = [name for name in known[1:] if not methods or name in methods]
    return {PROPOSED: recipe} | {
        name: with_settings(recipe, settings[name])
        if settings
        else in_world_of(recipe, recipes.get(name), as_long=True)
        for name in chosen
    }


def beside_another(recipe: Recipe, other: Recipe) -> Entrants:
    """Two recipes, the second in the world of the first and for as many rounds."""
    name = _distinct(other.name, [PROPOSED])
    return {PROPOSED: recipe, name: in_world_of(recipe, other, as_long=True)}


def side_by_side(chosen: Sequence[Recipe], world: Recipe) -> Entrants:
    """Recipes under names of their own, all in the world of one recipe, each with the rounds that it has."""
    found = Entrants()
    for recipe in chosen:
        found[_distinct(recipe.name, found)] = in_world_of(world, recipe)
    return found


def in_world_of(first: Recipe, other: Recipe, as_long: bool = False) -> Recipe:
    """Another recipe on the data, model and cell of a first one, with its seed, precision and losses of uplinks.

    It is as long as its own settings say, or, where both leave their local steps to themselves, as long as the first.
    """
    own, run = other.run, first.run
    steps = run.local_steps if as_long and run.local_steps and own.local_steps else own.local_steps
    own = replace(own, rounds=run.rounds, evaluate_every=run.evaluate_every) if as_long else own
    settled = replace(
        own,
        local_steps=steps,
        seed=run.seed,
        precision=run.precision,
        device=run.device,
        tokens_per_pass=run.tokens_per_pass,
    )
    found = replace(other, world=first.world, run=settled)
    losing = replace(
        found, method=replace(found.method, link=found.method.link.losing(first.method.link.loss_probability))
    )
    return losing if why_not(losing) == "" else found


def why_not(recipe: Recipe, count: SampleCount | None = None) -> str:
    """Why a recipe does not fit its clients, model and data, as far as is known without training; else empty."""
    try:
        if count is None:
            recipe.method.check(recipe.world.scenario.population.num_clients, _ENOUGH, _ENOUGH)
        else:
            count.planner(recipe)
    except WavetuneError as error:
        return str(error)
    return ""


def fitting(entrants: Mapping[str, Recipe], count: SampleCount) -> tuple[Entrants, dict[str, str]]:
    """Those that fit the data, and why the others do not.

    A recipe with a second stage, which aligns clients to preferences, is not for data on which nothing else is aligned;
    one that learns classes is not for text.
    """
    world = next(iter(entrants.values()))
    fit, left_out = Entrants(), dict[str, str]()
    for name, recipe in entrants.items():
        own = recipes.get(name) if name in recipes.names() else recipe
        if own.method.alignment is not None:
            reason = "its second stage aligns clients to preferences, which is another task; name it to rank it"
        elif world.world.data.template.writes_text and not own.world.data.template.writes_text:
            reason = "it learns classes and these data are texts; name it to rank it"
        else:
            reason = why_not(recipe, count)
        if reason:
            left_out[name] = reason
        else:
            fit[name] = recipe
    return fit, left_out


def _distinct(name: str, taken: Sequence[str] | Mapping[str, object]) -> str:
    """A name that is none of these and can be a folder's."""
    name, number = name.replace(":", "."), 2
    found = name
    while found in taken:
        found, number = f"{name}-{number}", number + 1
    return found
