"""Small-scale block fading: one power gain per client and subchannel, constant over a round, of mean 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray

from wavetune.errors import ConfigError
from wavetune.guarded import Checks
from wavetune.parts import Part
from wavetune.units import Array, db_to_linear
from wavetune.wireless.validation import Checked

Generators = Sequence[np.random.Generator]
Bools = NDArray[np.bool_]
Complex = NDArray[np.complex128]
DelaySpread = Annotated[float, Gt(0), Le(1)]  # s; light goes 300,000 km in the longest
NUM_TAPS = 32


def _check_scattered(_: Fading, found: Any, generators: Generators, num_subchannels: int, *__: Any) -> str:
    wanted = (len(generators), num_subchannels)
    return "" if np.shape(found) == wanted and bool(np.all(np.isfinite(found))) else f"finite amplitudes, {[*wanted]}"


def _check_power(part: Fading, found: Any, generators: Generators, num_subchannels: int, *_: Any) -> str:
    return _check_power_of(part, found, np.empty((len(generators), num_subchannels)))


def _check_power_of(_: Fading, found: Any, scattered_KM: Complex | Array, *__: Any) -> str:
    wanted = np.shape(scattered_KM)
    power = np.asarray(found) if np.shape(found) == wanted and np.isrealobj(found) else np.array(-1.0)
    return "" if np.all((power >= 0) & (power < np.inf)) else f"power gains, finite and not below 0, {[*wanted]}"


class Fading(Checked, Part):
    """Small-scale fading: the power gain of each subchannel around the path loss."""

    checks: ClassVar[Checks] = {
        "scattered": _check_scattered,
        "power_gain": _check_power,
        "power_gain_of": _check_power_of,
    }

    def power_gain(
        self, generators: Generators, num_subchannels: int, subchannel_hz: float, is_los_K: Bools | None = None
    ) -> Array:
        """[K, M] linear power gain of mean 1, each client's from its own generator; without `is_los_K` all in sight."""
        return self.power_gain_of(self.scattered(generators, num_subchannels, subchannel_hz), is_los_K)

    def scattered(self, generators: Generators, num_subchannels: int, subchannel_hz: float) -> Complex:
        """[K, M] amplitudes of what is scattered, each CN(0, 1), each client's from its own generator."""
        raise NotImplementedError

    def power_gain_of(self, scattered_KM: Complex, is_los_K: Bools | None = None) -> Array:
        """[K, M] linear power gain of scattered amplitudes."""
        raise NotImplementedError


@dataclass(frozen=True)
class NoFading(Fading):
    """Gain exactly 1."""

    kind = "none"

    def scattered(self, generators: Generators, num_subchannels: int, subchannel_hz: float) -> Complex:
        """[K, M] ones, which nothing is made of."""
        return np.ones((len(generators), num_subchannels), np.complex128)

    def power_gain_of(self, scattered_KM: Complex, is_los_K: Bools | None = None) -> Array:
        """[K, M] ones."""
        return np.ones(scattered_KM.shape)


class _Scattering(Fading):
    """What fadings with scattered paths share."""

    frequency_selective: bool
    delay_spread_s: float | None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.delay_spread_s is not None and not self.frequency_selective:
            raise ConfigError(
                f"delay_spread_s = {self.delay_spread_s:g} needs frequency_selective = true; set it, or leave "
                "delay_spread_s out"
            )

    def scattered(self, generators: Generators, num_subchannels: int, subchannel_hz: float) -> Complex:
        """[K, M] amplitudes of what is scattered, each CN(0, 1), one generator per client."""
        rows = [self._of_client(generator, num_subchannels, subchannel_hz) for generator in generators]
        return np.array(rows, np.complex128).reshape(-1, num_subchannels)

    def _of_client(self, generator: np.random.Generator, num_subchannels: int, subchannel_hz: float) -> Complex:
        if not self.frequency_selective:
            return np.repeat(_complex_normal(generator, 1), num_subchannels)
        if self.delay_spread_s is None:
            return _complex_normal(generator, num_subchannels)
        # Equal-power taps at exponential delays: exactly CN(0, 1) per subchannel, with the correlation
        # 1 / (1 + 2j pi delta_f delay_spread) of an exponential profile between subchannels delta_f apart.
        tap_L = _complex_normal(generator, NUM_TAPS) / np.sqrt(NUM_TAPS)
        delay_s_L = self.delay_spread_s * generator.standard_exponential(NUM_TAPS)
        frequency_hz_M = subchannel_hz * np.arange(num_subchannels)
        return tap_L @ np.exp(-2j * np.pi * delay_s_L[:, None] * frequency_hz_M)


@dataclass(frozen=True)
class Rayleigh(_Scattering):
    """No dominant path: h ~ CN(0, 1), so the power gain |h|^2 is exponential with mean 1.

    `frequency_selective=False` gives a client one draw for the whole band. Otherwise subchannels are independent, or,
    with a `delay_spread_s`, correlated as an exponential power delay profile makes them.
    """

    frequency_selective: bool = True
    delay_spread_s: DelaySpread | None = None

    def power_gain_of(self, scattered_KM: Complex, is_los_K: Bools | None = None) -> Array:
        """[K, M] linear power gain, of mean 1."""
        return np.square(np.abs(scattered_KM))


@dataclass(frozen=True)
class Rician(_Scattering):
    """A dominant path of power K_f / (K_f + 1) plus Rayleigh scattering of power 1 / (K_f + 1).

    Formula: h = sqrt(K_f / (K_f + 1)) + sqrt(1 / (K_f + 1)) g with g ~ CN(0, 1); K_f = 0 is Rayleigh.
    The default K factor of 9 dB is the mean for urban cells in line of sight (TR 38.901 Table 7.5-6).

    With `only_in_sight` a device out of sight of the server has no dominant path, as TR 38.901 has it.

    Ignores: that the K factor differs between places; every client in sight gets the same.
    """

    k_factor_db: Annotated[float, Ge(-300), Le(300)] = 9.0
    only_in_sight: bool = False
    frequency_selective: bool = True
    delay_spread_s: DelaySpread | None = None

    def power_gain_of(self, scattered_KM: Complex, is_los_K: Bools | None = None) -> Array:
        """[K, M] linear power gain, of mean 1."""
        k_factor: float | Array = db_to_linear(self.k_factor_db)
        if self.only_in_sight and is_los_K is not None:
            k_factor = np.where(is_los_K, k_factor, 0.0)[:, None]
        return np.square(np.abs((np.sqrt(k_factor) + scattered_KM) / np.sqrt(k_factor + 1)))


def _complex_normal(generator: np.random.Generator, count: int) -> Complex:
    """[count] draws of CN(0, 1); the first of them do not depend on the count."""
    return (generator.standard_normal((count, 2)) @ np.array([1, 1j])) / np.sqrt(2)
