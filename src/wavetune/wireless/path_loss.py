"""Mean path loss: 3GPP TR 38.901 (urban, rural, office, factory) and the log-distance law.

Every model answers the same questions over any number of devices: `path_loss_db`, `los_probability` and
`shadowing_std_db`, within its `distance_limits_m` and `carrier_limits_hz`. Clauses are those of TR 38.901 v17 and v18.
The standard rounds the speed of light to 3e8 m/s; the exact value used here moves a loss beyond the breakpoint by less
than 0.007 dB.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Gt, Le, Lt
from numpy.typing import NDArray

from wavetune.errors import ConfigError
from wavetune.guarded import Checks
from wavetune.parts import Part
from wavetune.units import Array
from wavetune.wireless.line_of_sight import (
    mixed_office_los_probability,
    open_office_los_probability,
    urban_macro_environment_height_m,
    urban_macro_los_probability,
    urban_micro_los_probability,
)
from wavetune.wireless.validation import Checked, Positive, check_range

SPEED_OF_LIGHT_M_PER_S = 299_792_458.0
_EXPONENTS = 1.2, 8.0  # of corridors that guide waves, and more than the most obstructed buildings measured

Bools = bool | NDArray[np.bool_]
Values = float | Array
Pair = tuple[Array, Array]
Limits = tuple[float, float]
LineOfSight = Literal["random", "always", "never"]  # "random": drawn with the standard's probability
OutdoorServerHeight = Annotated[float, Ge(2), Le(150)]
OutdoorDeviceHeight = Annotated[float, Ge(1.5), Le(22.5)]
IndoorHeight = Annotated[float, Ge(0), Le(10)]


def _check_loss(_: PathLoss, found: Any, distance_2d_m: Values, is_los: Bools, *__: Any, **___: Any) -> str:
    both = np.broadcast(distance_2d_m, is_los).shape
    fits = np.shape(found) in (both, np.shape(distance_2d_m)) and bool(np.all(np.isfinite(found)))
    return "" if fits else f"finite losses, {list(both)}"


def _check_share(_: PathLoss, found: Any, distance_2d_m: Values, *__: Any, **___: Any) -> str:
    fits = np.shape(found) == np.shape(distance_2d_m) and bool(np.all((np.asarray(found) >= 0) & (found <= 1)))
    return "" if fits else f"probabilities, {list(np.shape(distance_2d_m))}"


def _check_std(_: PathLoss, found: Any, is_los: Bools) -> str:
    fits = np.shape(found) in ((), np.shape(is_los)) and bool(np.all((np.asarray(found) >= 0) & np.isfinite(found)))
    return "" if fits else f"finite deviations not below 0, {list(np.shape(is_los))}"


class PathLoss(Checked, Part):
    """A large-scale law: path loss by distance, line of sight and shadowing."""

    checks: ClassVar[Checks] = {
        "path_loss_db": _check_loss,
        "los_probability": _check_share,
        "shadowing_std_db": _check_std,
    }
    carrier_limits_hz: ClassVar[Limits] = (1e6, 1e13)
    indoor_depth_m: ClassVar[float | None] = None  # how far inside a building a device can be; None if there is none

    @property
    def distance_limits_m(self) -> Limits:
        """Horizontal distances the law is valid for, m."""
        raise NotImplementedError

    def path_loss_db(self, distance_2d_m: Values, is_los: Bools, carrier_hz: float, uniform: Values = 0.0) -> Array:
        """Mean path loss, by the formula of the law.

        Args:
            distance_2d_m: horizontal distance, m, in `distance_limits_m`.
            is_los: whether each device is in line of sight.
            carrier_hz: Hz, in `carrier_limits_hz`.
            uniform: a draw of U[0, 1) per device for the environment height, which urban macro cells alone ask for.

        Returns:
            dB, broadcast shape.

        Raises:
            ConfigError: a distance or the carrier is outside its range.
        """
        raise NotImplementedError

    def los_probability(self, distance_2d_m: Values) -> Array:
        """Probability of line of sight in the shape of the distance."""
        raise NotImplementedError

    def shadowing_std_db(self, is_los: Bools) -> Array:
        """Standard deviation of the shadowing, dB."""
        raise NotImplementedError

    def doubts(self, min_distance_m: float, carrier_hz: float) -> Iterator[str]:
        """Settings that are allowed and look like a mistake, in words."""
        yield from ()


@dataclass(frozen=True)
class LogDistance(PathLoss):
    """Loss that grows with the logarithm of distance, whether in line of sight or not.

    The defaults are 128.1 + 37.6 log10(d_km), the urban macro law of 3GPP TR 36.942 clause 4.5.2 at 2 GHz.

    Formula: PL = intercept_db + 10 exponent log10(d / reference_m).

    Ignores: carrier frequency, heights and line of sight.

    >>> float(LogDistance().path_loss_db(100.0, False, 2e9))
    90.5
    """

    intercept_db: Annotated[float, Ge(-100), Le(400)] = 128.1
    exponent: Annotated[float, Ge(0), Le(20)] = 3.76
    reference_m: Positive = 1000.0
    shadowing_db: Annotated[float, Ge(0), Le(50)] = 8.0

    @property
    def distance_limits_m(self) -> Limits:
        """Horizontal distances the law is valid for, m: nearer than 1 m, no law of far fields holds."""
        return 1.0, 1e7

    def path_loss_db(self, distance_2d_m: Values, is_los: Bools, carrier_hz: float, uniform: Values = 0.0) -> Array:
        """Mean path loss, dB, in the shape of the distance, which alone is used."""
        check_range("distance_2d_m", distance_2d_m, *self.distance_limits_m, "the range of LogDistance")
        return self.intercept_db + 10 * self.exponent * np.log10(np.divide(distance_2d_m, self.reference_m))

    def los_probability(self, distance_2d_m: Values) -> Array:
        """Zero: no device counts as being in line of sight."""
        return np.zeros(np.shape(distance_2d_m))

    def shadowing_std_db(self, is_los: Bools) -> Array:
        """Standard deviation of the shadowing, dB."""
        return np.full(np.shape(is_los), self.shadowing_db)

    def doubts(self, min_distance_m: float, carrier_hz: float) -> Iterator[str]:
        """An exponent that no place has, and a loss that is a gain."""
        low, high = _EXPONENTS
        if not low <= self.exponent <= high:
            yield (
                f"path_loss.exponent is {self.exponent:g}, outside {low:g} to {high:g}: free space has 2, built-up "
                "places 3 to 6"
            )
        loss_db = float(self.path_loss_db(min_distance_m, False, carrier_hz))
        if loss_db < 0:
            yield (
                f"the path loss at min_distance_m = {min_distance_m:g} is {loss_db:.3g} dB, so that more would be "
                "received than was sent: check path_loss.intercept_db, which is positive, and the metres of reference_m"
            )


class _Tr38901(PathLoss):
    """What the scenarios of TR 38.901 share."""

    carrier_limits_hz: ClassVar[Limits] = (0.5e9, 100e9)
    _shadowing_los_nlos_db: ClassVar[tuple[float, float]]

    line_of_sight: LineOfSight
    server_height_m: float
    device_height_m: float

    @property
    def distance_limits_m(self) -> Limits:
        """Horizontal distances the model is valid for, m (outdoor scenarios of Table 7.4.1-1)."""
        return 10.0, 5000.0

    def path_loss_db(self, distance_2d_m: Values, is_los: Bools, carrier_hz: float, uniform: Values = 0.0) -> Array:
        """Mean path loss: that in line of sight, out of it that of the law there, but no less."""
        source = f"the range of {type(self).__name__} in TR 38.901 Table 7.4.1-1"
        check_range("distance_2d_m", distance_2d_m, *self.distance_limits_m, source)
        check_range("carrier_hz", carrier_hz, *self.carrier_limits_hz, source)
        log_m = np.log10(np.hypot(distance_2d_m, self.server_height_m - self.device_height_m))
        los_db, nlos_db = self._los_and_nlos_db(distance_2d_m, log_m, carrier_hz, uniform)
        return np.where(is_los, los_db, np.maximum(los_db, nlos_db))

    def _los_and_nlos_db(self, distance_2d_m: Values, log_m: Array, carrier_hz: float, uniform: Values) -> Pair:
        """Losses in line of sight and out of it; `log_m` is log10 of the distance between the antennas in m."""
        raise NotImplementedError

    def los_probability(self, distance_2d_m: Values) -> Array:
        """Probability of line of sight in the shape of the distance; 1 or 0 where it is configured as certain."""
        law = self._los_law(distance_2d_m)
        return {"random": law, "always": np.ones_like(law), "never": np.zeros_like(law)}[self.line_of_sight]

    def shadowing_std_db(self, is_los: Bools) -> Array:
        """Standard deviation of the shadowing, dB (Table 7.4.1-1)."""
        return np.where(is_los, *self._shadowing_los_nlos_db)

    def _los_law(self, distance_2d_m: Values) -> Array:
        raise NotImplementedError

    def _horizontal_m(self, distance_3d_m: float) -> float:
        """Horizontal distance at which the antennas are so far apart; 0 where their heights alone are."""
        return math.sqrt(max(0.0, distance_3d_m**2 - (self.server_height_m - self.device_height_m) ** 2))


@dataclass(frozen=True)
class UrbanMacro(_Tr38901):
    """3GPP UMa: a server above the rooftops.

    Formula, f in GHz, d3 the distance between the antennas, d_B the breakpoint distance:
        LoS:  28 + 22 log10(d3) + 20 log10(f) up to d_B, then
              28 + 40 log10(d3) + 20 log10(f) - 9 log10(d_B^2 + (h_BS - h_UT)^2)
        NLoS: max(LoS, 13.54 + 39.08 log10(d3) + 20 log10(f) - 0.6 (h_UT - 1.5))

    Ignores: the penetration loss of indoor devices and the optional NLoS formula.

    Source: TR 38.901 Table 7.4.1-1.

    >>> float(UrbanMacro().path_loss_db(100.0, True, 1e9).round(2))  # 28 + 22 log10(102.72)
    72.26
    """

    indoor_depth_m: ClassVar = 25.0
    _shadowing_los_nlos_db: ClassVar = (4.0, 6.0)

    line_of_sight: LineOfSight = "random"
    server_height_m: OutdoorServerHeight = 25.0
    device_height_m: OutdoorDeviceHeight = 1.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.server_height_m <= self.device_height_m:
            raise ConfigError(
                f"UrbanMacro.server_height_m is {self.server_height_m:g} but must be greater than device_height_m = "
                f"{self.device_height_m:g}; the standard assumes 25"
            )

    def _los_and_nlos_db(self, distance_2d_m: Values, log_m: Array, carrier_hz: float, uniform: Values) -> Pair:
        log_ghz = math.log10(carrier_hz / 1e9)
        environment_m = urban_macro_environment_height_m(distance_2d_m, self.device_height_m, uniform)
        los_db = 28 + 20 * log_ghz + _dual_slope_db(self, distance_2d_m, log_m, carrier_hz, environment_m, 22.0)
        nlos_db = 13.54 + 39.08 * log_m + 20 * log_ghz - 0.6 * (self.device_height_m - 1.5)
        return los_db, nlos_db

    def _los_law(self, distance_2d_m: Values) -> Array:
        return urban_macro_los_probability(distance_2d_m, self.device_height_m)


@dataclass(frozen=True)
class UrbanMicro(_Tr38901):
    """3GPP UMi street canyon: a server below the rooftops.

    Formula, f in GHz, d3 the distance between the antennas, d_B the breakpoint distance:
        LoS:  32.4 + 21 log10(d3) + 20 log10(f) up to d_B, then
              32.4 + 40 log10(d3) + 20 log10(f) - 9.5 log10(d_B^2 + (h_BS - h_UT)^2)
        NLoS: max(LoS, 22.4 + 35.3 log10(d3) + 21.3 log10(f) - 0.3 (h_UT - 1.5))

    Ignores: the penetration loss of indoor devices and the optional NLoS formula.

    Source: TR 38.901 Table 7.4.1-1.

    >>> float(UrbanMicro().path_loss_db(100.0, False, 1e9).round(2))  # 22.4 + 35.3 log10(100.36)
    93.06
    """

    indoor_depth_m: ClassVar = 25.0
    _shadowing_los_nlos_db: ClassVar = (4.0, 7.82)

    line_of_sight: LineOfSight = "random"
    server_height_m: OutdoorServerHeight = 10.0
    device_height_m: OutdoorDeviceHeight = 1.5

    def _los_and_nlos_db(self, distance_2d_m: Values, log_m: Array, carrier_hz: float, uniform: Values) -> Pair:
        log_ghz = math.log10(carrier_hz / 1e9)
        los_db = 32.4 + 20 * log_ghz + _dual_slope_db(self, distance_2d_m, log_m, carrier_hz, 1.0, 21.0)
        nlos_db = 22.4 + 35.3 * log_m + 21.3 * log_ghz - 0.3 * (self.device_height_m - 1.5)
        return los_db, nlos_db

    def _los_law(self, distance_2d_m: Values) -> Array:
        return urban_micro_los_probability(distance_2d_m)


@dataclass(frozen=True)
class IndoorHotspot(_Tr38901):
    """3GPP InH office: a server under the ceiling of an open office, or of one with rooms and corridors ("mixed").

    Formula, f in GHz, d3 the distance between the antennas:
        LoS:  32.4 + 17.3 log10(d3) + 20 log10(f)
        NLoS: max(LoS, 17.3 + 38.3 log10(d3) + 24.9 log10(f))

    Ignores: walls and floors between rooms, and the optional NLoS formula.

    Source: TR 38.901 Table 7.4.1-1.

    >>> office = IndoorHotspot(server_height_m=1.0)
    >>> office.path_loss_db(np.array([1.0, 10.0]), True, 1e9).round(2).tolist()
    [32.4, 49.7]
    """

    _shadowing_los_nlos_db: ClassVar = (3.0, 8.03)

    office: Literal["open", "mixed"] = "mixed"
    line_of_sight: LineOfSight = "random"
    server_height_m: IndoorHeight = 3.0
    device_height_m: IndoorHeight = 1.0

    @property
    def distance_limits_m(self) -> Limits:
        """Horizontal distances, m, at which the antennas are 1 to 150 m apart (Table 7.4.1-1)."""
        return self._horizontal_m(1.0), self._horizontal_m(150.0)

    def _los_and_nlos_db(self, distance_2d_m: Values, log_m: Array, carrier_hz: float, uniform: Values) -> Pair:
        log_ghz = math.log10(carrier_hz / 1e9)
        los_db = 32.4 + 17.3 * log_m + 20 * log_ghz
        nlos_db = 17.3 + 38.3 * log_m + 24.9 * log_ghz
        return los_db, nlos_db

    def _los_law(self, distance_2d_m: Values) -> Array:
        law = open_office_los_probability if self.office == "open" else mixed_office_los_probability
        return law(distance_2d_m)


@dataclass(frozen=True)
class RuralMacro(_Tr38901):
    """3GPP RMa: a high mast over low buildings.

    Formula, f in GHz, d3 the distance between the antennas, h the building height, W the street width,
    d_B = 2 pi h_BS h_UT f / c the breakpoint distance:
        LoS:  PL1(d) = 20 log10(40 pi d f / 3) + min(0.03 h^1.72, 10) log10(d) - min(0.044 h^1.72, 14.77)
                       + 0.002 log10(h) d,   PL1(d3) up to d_B, then PL1(d_B) + 40 log10(d3 / d_B)
        NLoS: max(LoS, 161.04 - 7.1 log10(W) + 7.5 log10(h) - (24.37 - 3.7 (h / h_BS)^2) log10(h_BS)
                       + (43.42 - 3.1 log10(h_BS)) (log10(d3) - 3) + 20 log10(f) - (3.2 log10(11.75 h_UT)^2 - 4.97))

    Ignores: that the shadowing in sight is 6 dB in the place of 4 beyond the breakpoint, which is kilometres away.

    Source: TR 38.901 Table 7.4.1-1.

    >>> float(RuralMacro().path_loss_db(1000.0, True, 1e9).round(2))  # 92.45 + 1.43 - 0.70 + 1.40
    94.58
    """

    carrier_limits_hz: ClassVar[Limits] = (0.5e9, 30e9)
    indoor_depth_m: ClassVar = 10.0
    _shadowing_los_nlos_db: ClassVar = (4.0, 8.0)

    line_of_sight: LineOfSight = "random"
    server_height_m: Annotated[float, Ge(10), Le(150)] = 35.0
    device_height_m: Annotated[float, Ge(1), Le(10)] = 1.5
    building_height_m: Annotated[float, Ge(5), Le(50)] = 5.0
    street_width_m: Annotated[float, Ge(5), Le(50)] = 20.0

    def _los_and_nlos_db(self, distance_2d_m: Values, log_m: Array, carrier_hz: float, uniform: Values) -> Pair:
        ghz = carrier_hz / 1e9
        height_m, breakpoint_m = self.building_height_m, 2 * math.pi * self.server_height_m * self.device_height_m
        breakpoint_m *= carrier_hz / SPEED_OF_LIGHT_M_PER_S

        def near_db(log_m: Values) -> Values:
            slope, offset_db = min(0.03 * height_m**1.72, 10.0), min(0.044 * height_m**1.72, 14.77)
            free_db = 20 * math.log10(40 * math.pi * ghz / 3) + 20 * log_m
            return free_db + slope * log_m - offset_db + 0.002 * math.log10(height_m) * 10**log_m

        log_break = math.log10(breakpoint_m)
        los_db = np.where(
            np.asarray(distance_2d_m) < breakpoint_m, near_db(log_m), near_db(log_break) + 40 * (log_m - log_break)
        )
        log_mast = math.log10(self.server_height_m)
        nlos_db = (
            161.04
            - 7.1 * math.log10(self.street_width_m)
            + 7.5 * math.log10(height_m)
            - (24.37 - 3.7 * (height_m / self.server_height_m) ** 2) * log_mast
            + (43.42 - 3.1 * log_mast) * (log_m - 3)
            + 20 * math.log10(ghz)
            - (3.2 * math.log10(11.75 * self.device_height_m) ** 2 - 4.97)
        )
        return los_db, nlos_db

    def _los_law(self, distance_2d_m: Values) -> Array:
        return np.minimum(1.0, np.exp(-(np.asarray(distance_2d_m, np.float64) - 10) / 1000))


@dataclass(frozen=True)
class IndoorFactory(_Tr38901):
    """3GPP InF: a hall with clutter, the server among it (`low`) or above it (`high`), the clutter `sparse` or `dense`.

    The defaults are a base station above dense clutter (InF-DH).

    Formula, f in GHz, d3 the distance between the antennas:
        LoS:  31.84 + 21.5 log10(d3) + 19 log10(f)
        NLoS: max(LoS, a + b log10(d3) + 20 log10(f)), with a, b of sparse clutter 33, 25.5 (low server) or
              32.4, 23 (high), of dense 18.6, 35.7 (low, and at least sparse clutter's) or 33.63, 21.9 (high)

    Source: TR 38.901 Table 7.4.1-1.

    >>> hall = IndoorFactory(server="low", clutter="sparse", server_height_m=1.5)
    >>> hall.path_loss_db(10.0, np.array([True, False]), 1e9).round(2).tolist()
    [53.34, 58.5]
    """

    clutter: Literal["sparse", "dense"] = "dense"
    server: Literal["low", "high"] = "high"
    line_of_sight: LineOfSight = "random"
    server_height_m: IndoorHeight = 8.0
    device_height_m: IndoorHeight = 1.5
    clutter_density: Annotated[float, Gt(0), Lt(1)] = 0.6
    clutter_size_m: Annotated[float, Gt(0), Le(100)] = 2.0
    clutter_height_m: IndoorHeight = 6.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.server == "high" and not self.server_height_m > self.clutter_height_m > self.device_height_m:
            raise ConfigError(
                f"IndoorFactory.clutter_height_m is {self.clutter_height_m:g} but must be between device_height_m = "
                f"{self.device_height_m:g} and server_height_m = {self.server_height_m:g}; or set server=low"
            )

    @property
    def distance_limits_m(self) -> Limits:
        """Horizontal distances, m, at which the antennas are 1 to 600 m apart (Table 7.4.1-1)."""
        return self._horizontal_m(1.0), self._horizontal_m(600.0)

    def _los_and_nlos_db(self, distance_2d_m: Values, log_m: Array, carrier_hz: float, uniform: Values) -> Pair:
        ghz_db = 20 * math.log10(carrier_hz / 1e9)
        los_db = 31.84 + 21.5 * log_m + 0.95 * ghz_db
        laws = [_FACTORIES[self.server, self.clutter]]
        laws += [_FACTORIES["low", "sparse"]] if (self.server, self.clutter) == ("low", "dense") else []
        nlos_db = np.max([a + b * log_m + ghz_db for a, b, _ in laws], axis=0)
        return los_db, nlos_db

    def shadowing_std_db(self, is_los: Bools) -> Array:
        """Standard deviation of the shadowing, dB (Table 7.4.1-1)."""
        return np.where(is_los, 4.3, _FACTORIES[self.server, self.clutter][2])

    def _los_law(self, distance_2d_m: Values) -> Array:
        reach_m = -self.clutter_size_m / math.log1p(-self.clutter_density)
        if self.server == "high":
            above_m = self.clutter_height_m - self.device_height_m
            reach_m *= (self.server_height_m - self.device_height_m) / above_m
        return np.exp(-np.asarray(distance_2d_m, np.float64) / reach_m)


# Of InF without line of sight: loss at 1 m and 1 GHz (dB), dB a decade, deviation of the shadowing (dB).
_FACTORIES = {
    ("low", "sparse"): (33.0, 25.5, 5.7),
    ("low", "dense"): (18.6, 35.7, 7.2),
    ("high", "sparse"): (32.4, 23.0, 5.9),
    ("high", "dense"): (33.63, 21.9, 4.0),
}


def breakpoint_distance_m(
    server_height_m: float, device_height_m: float, carrier_hz: float, environment_height_m: Values = 1.0
) -> Array:
    """Distance at which a line-of-sight path starts to lose 40 dB a decade.

    Formula: d_B = 4 (h_BS - h_E) (h_UT - h_E) f / c.

    Args:
        server_height_m: h_BS, m.
        device_height_m: h_UT, m.
        carrier_hz: f, Hz.
        environment_height_m: h_E, m.

    Returns:
        m, in the shape of the environment height.

    Source: TR 38.901 Table 7.4.1-1, note 1.

    >>> float(breakpoint_distance_m(10.0, 1.5, 2.99792458e9))
    180.0
    """
    server_m = np.subtract(server_height_m, environment_height_m, dtype=np.float64)
    device_m = np.subtract(device_height_m, environment_height_m, dtype=np.float64)
    return 4 * server_m * device_m * carrier_hz / SPEED_OF_LIGHT_M_PER_S


def _dual_slope_db(
    model: UrbanMacro | UrbanMicro,
    distance_2d_m: Values,
    log_m: Array,
    carrier_hz: float,
    environment_height_m: Values,
    near_slope_db: float,
) -> Array:
    """Distance term of both outdoor laws; the coefficient that joins the two slopes is (40 - near_slope_db) / 2."""
    server_m, device_m = model.server_height_m, model.device_height_m
    break_m = breakpoint_distance_m(server_m, device_m, carrier_hz, environment_height_m)
    joint_db = (40 - near_slope_db) / 2 * np.log10(break_m**2 + (server_m - device_m) ** 2)
    return np.where(distance_2d_m <= break_m, near_slope_db * log_m, 40 * log_m - joint_db)
