"""What a sweep varies: any field of a recipe, or a quantity of the papers' figures under a short name."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from wavetune.errors import ConfigError, JsonError, NotJsonError, nearest
from wavetune.json_reader import parse, value_of
from wavetune.recipe import Recipe, with_settings
from wavetune.reporting.format import axis_unit
from wavetune.wireless.scenario import Band, Bands, Population

Value = float | int | str | bool | list[Any] | dict[str, Any] | None


@dataclass(frozen=True)
class Quantity:
    """A quantity with a short name: what it is called, its unit, and the settings that give it a value."""

    title: str
    unit: str
    settings: Callable[[Recipe, float], Mapping[str, float | list[float]]]


def _band_settings(recipe: Recipe, field: str, value_of: Callable[[Band], float]) -> dict[str, float | list[float]]:
    bands: Bands = recipe.world.scenario.bands
    return {f"world.scenario.bands.{n}.{field}": value_of(b) for n, b in (("main", bands.main), ("fed", bands.fed))}


def _power(recipe: Recipe, value: float) -> dict[str, float | list[float]]:
    more_db = value - recipe.world.scenario.population.tx_power_max_dbm
    totals = _band_settings(recipe, "total_power_max_dbm", lambda band: band.total_power_max_dbm + more_db)
    return {"world.scenario.population.tx_power_max_dbm": value} | totals


def _client_compute(recipe: Recipe, value: float) -> dict[str, float | list[float]]:
    population: Population = recipe.world.scenario.population
    scale = value * population.cycles_per_flop / (sum(population.clock_hz) / 2)
    return {"world.scenario.population.clock_hz": [scale * hz for hz in population.clock_hz]}


def _field(path: str) -> Callable[[Recipe, float], Mapping[str, float | list[float]]]:
    return lambda recipe, value: {path: value}


QUANTITIES = {
    "bandwidth_hz": Quantity(
        "bandwidth of each band", "Hz", lambda r, v: _band_settings(r, "subchannel_hz", lambda b: v / b.num_subchannels)
    ),
    "tx_power_max_dbm": Quantity("maximum power of a client", "dBm", _power),
    "client_flop_per_s": Quantity("mean compute of a client", "FLOP/s", _client_compute),
    "server_flop_per_s": Quantity("compute of the server", "FLOP/s", _field("world.scenario.server.flop_per_s")),
    "num_clients": Quantity("number of clients", "", _field("world.scenario.population.num_clients")),
    "cell_radius_m": Quantity("cell radius", "m", _field("world.scenario.cell_radius_m")),
}


@dataclass(frozen=True)
class Axis:
    """A field and the values it takes, ascending where they are numbers."""

    field: str
    values: tuple[Value, ...]

    def recipe(self, base: Recipe, value: Value) -> Recipe:
        """The recipe with the field at a value. Raises ConfigError naming the field."""
        quantity, settings = QUANTITIES.get(self.field), dict[str, Any]()
        if quantity is None:
            settings = {self.field: value}
        elif isinstance(value, bool) or not isinstance(value, float | int):
            raise ConfigError(f"{self.field} takes numbers, not {value!r}")
        else:
            settings = dict(quantity.settings(base, value))
        for path in settings:
            inside, _, field = path.rpartition(".")
            known = base.world.scenario.population.devices if inside == "world.scenario.population" else ()
            if any(getattr(device, field, None) is not None for device in known):
                raise ConfigError(f"{path} is not that of all: {inside}.devices has {field} of their own; take it out")
        return with_settings(base, [f"{path}={json.dumps(setting)}" for path, setting in settings.items()])

    @property
    def is_numeric(self) -> bool:
        """Whether all values are numbers."""
        return all(isinstance(v, float | int) and not isinstance(v, bool) for v in self.values)

    @property
    def scale(self) -> tuple[float, str]:
        """Divisor and unit in which to show the values."""
        quantity = QUANTITIES.get(self.field)
        if quantity is None or quantity.unit == "dBm":
            return 1.0, quantity.unit if quantity else ""
        return axis_unit(quantity.unit, max(float(v) for v in self.values if isinstance(v, float | int)))

    @property
    def title(self) -> str:
        """What the axis shows, in words."""
        return QUANTITIES[self.field].title if self.field in QUANTITIES else self.field

    def show(self, value: Value) -> str:
        """A value with its unit.

        >>> Axis("bandwidth_hz", (5e6, 2e7)).show(5e6), Axis("run.local_steps", (1, 2)).show(2)
        ('5 MHz', '2')
        """
        divisor, unit = self.scale
        if isinstance(value, bool) or not isinstance(value, float | int):
            return str(value)
        return f"{value / divisor:g} {unit}".strip()


def axis_of(text: str, base: Recipe) -> Axis:
    """The axis that `FIELD=v1,v2,...` describes, every value tried on the recipe.

    Raises:
        ConfigError: no such field, no value, or a value that the field refuses.
    """
    field, equals, listed = text.partition("=")
    field = field.strip()
    if not equals or not field:
        raise ConfigError(f"--over takes FIELD=v1,v2,..., such as bandwidth_hz=5e6,10e6, not {text!r}")
    try:
        values = _values(listed)
    except JsonError as error:
        raise ConfigError(f"--over {field}: {error.reason}") from None
    if not values:
        raise ConfigError(f"--over {field} has no values; give some, such as {field}=1,2,4")
    if "." not in field and field not in QUANTITIES:
        raise ConfigError(
            f"--over knows no field {field!r}; {nearest(field, QUANTITIES)} (or give the path of a recipe's field)"
        )
    if field == "run.seed":
        raise ConfigError("--over run.seed is what --seeds varies already; vary another field")
    axis = Axis(field, values)
    for value in values:
        try:
            axis.recipe(base, value)
        except ConfigError as error:
            raise ConfigError(f"--over {field}={value}: {error}") from None
    return axis


def _values(listed: str) -> tuple[Value, ...]:
    """Values separated by commas, read as JSON where they parse, without repetitions.

    >>> _values("2,1e6,2"), _values("a, b"), _values("[1,2],[3,4]"), _values(" ")
    ((2, 1000000.0), ('a', 'b'), ([1, 2], [3, 4]), ())
    """
    try:
        found: list[Value] = parse(f"[{listed}]")
    except NotJsonError:
        found = [value_of(part.strip()) for part in listed.split(",") if part.strip()]
    unique = {key_of(value): value for value in found}
    numeric = Axis("", tuple(unique.values())).is_numeric
    return tuple(unique[key] for key in (sorted(unique, key=float) if numeric else unique))


def key_of(value: Value) -> str:
    """What tells values apart: equal numbers are one, however they are written.

    >>> key_of(2) == key_of(2.0), key_of("2")
    (True, '"2"')
    """
    return json.dumps(float(value) if isinstance(value, int) and not isinstance(value, bool) else value)
