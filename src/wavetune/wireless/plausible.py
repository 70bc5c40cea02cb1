"""Values of a cell that are allowed and look as if they were in another unit."""

import math
from collections.abc import Iterator
from functools import reduce
from typing import Any, cast

from wavetune.errors import ConfigError
from wavetune.units import w_to_dbm
from wavetune.wireless.scenario import Scenario

THERMAL_DBM_PER_HZ = -174.0  # at 290 K
_MOST_NOISE_DBM_PER_HZ = -130.0  # 44 dB above it, more than any receiver or place adds
_LEAST_POWER_DBM = -30.0
_USUAL: tuple[tuple[str, float, float, str], ...] = (  # field, least, most, what it may be
    ("population.clock_hz", 1e6, math.inf, "which looks like MHz or GHz: a clock is in cycles a second"),
    ("population.cycles_per_flop", 0.0, 100.0, "which looks like FLOP a cycle: 1024 of these are 1/1024 = 9.77e-4"),
    ("population.memory_bytes", 1e3, math.inf, "which looks like MB or GB"),
    ("population.switched_capacitance", 0.0, 1e-20, "and 1e-28 to 1e-26 are usual"),
    ("server.flop_per_s", 1e9, math.inf, "which looks like GFLOP/s or TFLOP/s"),
    ("server.energy_j_per_flop", 0.0, 1e-6, "which looks like pJ: 2.5 pJ are 2.5e-12"),
    ("bands.main.subchannel_hz", 1e3, math.inf, "which looks like kHz or MHz"),
    ("bands.fed.subchannel_hz", 1e3, math.inf, "which looks like kHz or MHz"),
    ("fading.delay_spread_s", 0.0, 1e-4, "which looks like ns or microseconds: streets have 1e-7 to 1e-6 s"),
    ("channel.speed_m_per_s", 0.0, 300.0, "faster than aircraft; 1 m/s are 3.6 km/h"),
)


def require_plausible(scenario: Scenario) -> None:
    """Ask about the first value that looks like another unit, unless the scenario says that it is `unusual`.

    >>> from wavetune.wireless.scenario import Population
    >>> require_plausible(Scenario(Population(tx_power_max_dbm=0.2)))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    wavetune.errors.ConfigError: world.scenario: population.tx_power_max_dbm is 0.2, which looks like watts: ...

    Raises: ConfigError.
    """
    question = None if scenario.unusual else next(_questions(scenario), None)
    if question is not None:
        raise ConfigError(f"world.scenario: {question}; if it is meant, set world.scenario.unusual=true")


def _questions(scenario: Scenario) -> Iterator[str]:
    for path, power_dbm in _values(scenario, "population.tx_power_max_dbm"):
        yield from _power(path, power_dbm)
    for name, band in (("main", scenario.bands.main), ("fed", scenario.bands.fed)):
        for field in ("total_power_max_dbm", "downlink_power_dbm"):
            yield from _power(f"bands.{name}.{field}", getattr(band, field))
        noise = band.noise_psd_dbm_per_hz
        if noise > _MOST_NOISE_DBM_PER_HZ:
            yield (
                f"bands.{name}.noise_psd_dbm_per_hz is {noise:g}, {noise - THERMAL_DBM_PER_HZ:g} dB above thermal "
                f"noise: {THERMAL_DBM_PER_HZ:g} dBm/Hz and a receiver's noise figure are usual, the power in a whole "
                "band must be divided by its width"
            )
    for path, least, most, hint in _USUAL:
        for where, value in _values(scenario, path):
            if not least <= value <= most:
                yield f"{where} is {value:g}, {hint}"
    yield from scenario.path_loss.doubts(scenario.min_distance_m, scenario.carrier_hz)


def _values(scenario: Scenario, path: str) -> Iterator[tuple[str, float]]:
    """The numbers at a path, at those of each known device and of channels in a channel; none where there are none."""
    inside, _, field = path.rpartition(".")
    count = len(scenario.population.devices) if inside == "population" else 0
    places = [path, *(f"{inside}.devices.{k}.{field}" for k in range(count))]
    around: Any = scenario.channel if inside == "channel" else None
    while around := getattr(around, "channel", None):
        places.append("channel." + places[-1])
    for where in places:
        found: Any = reduce(_of, where.split("."), scenario)
        values = cast("tuple[float | None, ...]", found if isinstance(found, tuple) else (found,))
        yield from ((where, value) for value in values if value is not None)


def _of(part: Any, name: str) -> Any:
    return part[int(name)] if name.isdecimal() else getattr(part, name, None)


def _power(name: str, power_dbm: float) -> Iterator[str]:
    if 0 < power_dbm < 1:
        yield f"{name} is {power_dbm:g}, which looks like watts: {power_dbm:g} W are {w_to_dbm(power_dbm):.3g} dBm"
    elif power_dbm < _LEAST_POWER_DBM:
        yield f"{name} is {power_dbm:g}, less than a microwatt: 23 dBm are 0.2 W, the power of a handset"
