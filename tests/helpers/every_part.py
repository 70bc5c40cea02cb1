"""Few recipes that have every part of every seam, found by walking the seams: nobody lists the parts."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

from helpers.runs import small
from wavetune.errors import ConfigError
from wavetune.federation.topology import Topology
from wavetune.part_values import part_type, read_part
from wavetune.parts import kinds
from wavetune.recipe import Recipe
from wavetune.wireless.channel import draw_channel, draw_devices
from wavetune.wireless.plausible import require_plausible

PHONES = Path(__file__).resolve().parents[2] / "examples" / "traces" / "phones.csv"
# A second stage; a table that is measured; what asks for other data or tokenizers.
ELSEWHERE = ("method.alignment", "method.codec_candidates", "world.data.template", "world.scenario.population.devices")
# With these settings a part does something that its defaults do not do in so small a run; a new part needs none.
TELLING: dict[str, dict[str, Any]] = {
    "all_random": {},
    "bottleneck": {"width": 4},
    "deadline": {"round_deadline_s": 0.004, "min_clients": 2},
    "at_random": {"count": 2},
    "fastest": {"count": 2},
    "fixed": {"positions_m": [[50, 0], [0, 90], [-140, 0]]},
    "lost_devices": {"from_round": 1},
    "multi_krum": {"malicious": 0, "keep": 2},
    "moving": {"speed_m_per_s": 5.0, "round_s": 0.01, "movement": "random_waypoint"},
    "module_wise": {"full_rounds": 1, "threshold": 2, "patience": 1},
    "outage": {"loss_probability": 0.4, "lost": "reuse"},
    "gaussian": {"clip_norm": 0.05, "noise_multiplier": 0.5},
    "screening": {"max_norm_ratio": 1.2},
    "table": {"steps": [{"snr_db": 0, "bit_per_s_per_hz": 0.5}, {"snr_db": 12, "bit_per_s_per_hz": 3}]},
    "trace": {"file": str(PHONES), "quantity": "throughput", "unit": "Mbit/s", "bandwidth_hz": 2e7, "round_s": 6.0},
    "serversteps": {"steps": 2},
    "softprompt": {"tokens": 4},
    "stream": {"capacity": 6, "arrivals": 3, "drift_rounds": 2},
    "trimmed_mean": {"fraction": 0.4},
}
TOPOLOGY, SCENARIO = "method.topology", "world.scenario."
BASE = (
    "run.precision=fp64",
    "run.tokens_per_pass=1",
    "run.samples=0",
    "method.lora.rank=4",
    "world.data.server_samples=6",
)  # every client a pass of its own
ANY_CELL = "world.scenario.cell_radius_m=145"  # which every path loss admits


def choices(part: Any = Recipe, path: str = "") -> Iterator[tuple[str, str, str]]:
    """Every part that a recipe can have: the path of its field, its kind, and the setting that puts it there."""
    hints = get_type_hints(part, include_extras=True)
    for field in dataclasses.fields(part):
        inside, where = part_type(hints[field.name]), f"{path}.{field.name}".lstrip(".")
        chain = next((part_type(one) for one in get_args(hints[field.name])), None)
        if (inside is None and chain is None) or where in ELSEWHERE:
            continue
        if inside is None or not dataclasses.is_dataclass(inside):
            for kind in kinds(inside or chain):
                yield where, kind, f"{where}={json.dumps({'kind': kind, **TELLING.get(kind, {})})}"
        elif field.default is None:  # a part that is off by default
            kind = inside.__name__.lower()
            yield where, kind, f"{where}={json.dumps(TELLING.get(kind, {}))}"
        else:
            yield from choices(inside, where)


def recipes_with_every_part() -> dict[str, Recipe]:
    """As few recipes as a greedy hand finds, by the names of the parts that each is the first to have."""
    left, found = list(choices()), dict[str, Recipe]()
    while left:
        for simulated in (False, True):  # what devices cannot have keeps nothing from them
            tried = [_with_as_many_as_fit(kind, left, simulated) for kind in kinds(Topology)]
            recipe, used = max(tried, key=lambda one: len(one[1]))
            if used:
                break
        else:
            raise AssertionError(f"no method can have {left[0][2]}")
        found["-".join(kind for _, kind, _ in used)[:80]] = recipe  # pytest shows no longer names
        left = [choice for choice in left if choice not in used]
    return found


def _draw(recipe: Recipe) -> None:
    """Raise ConfigError where parts of a world are refused together, such as a trace that a rate cannot carry."""
    scenario, seed = recipe.world.scenario, recipe.run.seed
    devices = draw_devices(scenario, seed)
    for index in range(recipe.run.rounds):
        draw_channel(scenario, devices, seed, index)


def _with(whole: Any, path: Sequence[str], values: Any) -> Any:
    """The recipe, or a part of it, with another part at a path; `with_settings` would read all others anew, too."""
    first, *inside = path
    held = getattr(whole, first)
    if inside:
        part = _with(held, inside, values)
    else:
        part = read_part(get_type_hints(type(whole), include_extras=True)[first], values, first)
        if dataclasses.is_dataclass(part) and type(part) is type(held):  # what is not named stays
            part = dataclasses.replace(held, **{name: getattr(part, name) for name in values if name != "kind"})
    return dataclasses.replace(whole, **{first: part})


def _with_as_many_as_fit(
    topology: str, left: Sequence[tuple[str, str, str]], simulated: bool
) -> tuple[Recipe, list[Any]]:
    recipe = small("fedavg_lora", *BASE, ANY_CELL, f"{TOPOLOGY}={topology}")
    used = [choice for choice in left if choice[:2] == (TOPOLOGY, topology)]
    for choice in left:
        if choice[0] in (TOPOLOGY, *(path for path, _, _ in used)):
            continue
        try:
            more = _with(recipe, choice[0].split("."), json.loads(choice[2].partition("=")[2]))
            more.method.check(3, 4, 32)
            require_plausible(more.world.scenario)
            if more.method.simulated_only and not simulated:
                continue
            if choice[0].startswith(SCENARIO):
                _draw(more)
        except ConfigError:
            continue
        recipe, used = more, [*used, choice]
    return recipe, used
