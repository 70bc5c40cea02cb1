"""What a method is put under to see what it stands: lost uploads, lost devices."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from wavetune.errors import ConfigError, nearest
from wavetune.ranking.entrants import why_not
from wavetune.recipe import Recipe
from wavetune.wireless.channels.lost_devices import LostDevices

SHARE = 0.3


@dataclass(frozen=True)
class Disturbance:
    """What happens to a run, in words, and how a recipe becomes one to which it happens."""

    title: str
    note: str
    of: Callable[[Recipe], Recipe]


def _outage(recipe: Recipe) -> Recipe:
    link = recipe.method.link
    return replace(
        recipe, method=replace(recipe.method, link=link.losing(1 - (1 - SHARE) * (1 - link.loss_probability)))
    )


def _lost_devices(recipe: Recipe) -> Recipe:
    scenario, half = recipe.world.scenario, recipe.run.rounds // 2
    gone = LostDevices(SHARE, from_round=half, channel=scenario.channel)
    return replace(recipe, world=replace(recipe.world, scenario=replace(scenario, channel=gone)))


DISTURBANCES = {
    "outage": Disturbance("outage", f"every upload of adapters is lost on its way with probability {SHARE:g}", _outage),
    "lost_devices": Disturbance(
        "lost devices", f"a share of {SHARE:g} of the devices is lost for good in the middle of the run", _lost_devices
    ),
}


def disturbances_of(names: str) -> tuple[str, ...]:
    """Those that a text names, with commas; none for `nothing`. Raises ConfigError for an unknown one."""
    named = [name.strip().replace("-", "_") for name in names.split(",") if name.strip()]
    known = (*DISTURBANCES, "nothing")
    for name in named:
        if name not in known:
            raise ConfigError(f"--under has {name!r}; {nearest(name, known)}")
    return tuple(name for name in DISTURBANCES if name in named)


def disturbed(recipe: Recipe, name: str) -> Recipe | str:
    """The recipe under a disturbance, without sample answers; a sentence where that cannot happen to it."""
    if recipe.method.topology.pooled:
        return "all data are in one place, where nothing is sent and no device computes"
    found = DISTURBANCES[name].of(replace(recipe, run=replace(recipe.run, samples=0)))
    return why_not(found) or found
