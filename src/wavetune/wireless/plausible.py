"""Values of a cell that are allowed and look as if they were in another unit."""

from __future__ import annotations

from collections.abc import Iterator

from wavetune.errors import ConfigError
from wavetune.units import w_to_dbm
from wavetune.wireless.scenario import Scenario

THERMAL_DBM_PER_HZ = -174.0  # at 290 K
_MOST_NOISE_DBM_PER_HZ = -130.0  # 44 dB above it, more than any receiver or place adds
_LEAST_POWER_DBM = -30.0


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
    yield from _power("population.tx_power_max_dbm", scenario.population.tx_power_max_dbm)
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
    yield from scenario.path_loss.doubts(scenario.min_distance_m, scenario.carrier_hz)


def _power(name: str, power_dbm: float) -> Iterator[str]:
    if 0 < power_dbm < 1:
        yield f"{name} is {power_dbm:g}, which looks like watts: {power_dbm:g} W are {w_to_dbm(power_dbm):.3g} dBm"
    elif power_dbm < _LEAST_POWER_DBM:
        yield f"{name} is {power_dbm:g}, less than a microwatt: 23 dBm are 0.2 W, the power of a handset"
