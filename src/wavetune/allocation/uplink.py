"""One band with its owners: when all can be done sending, and what being done later spends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wavetune.allocation.plan import Allocation
from wavetune.allocation.problem import IntArray, RadioBand
from wavetune.units import Array

if TYPE_CHECKING:
    from wavetune.allocation.water_filling import Race

_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class Uplink:
    """A race of clients with their owners.

    Args:
        race: the band's tables, and what the clients send.
        owner_M: client that owns each subchannel, -1 for none.
        floor_K: least rates (bit/s/Hz).
        times: transfers of a round.
        least_s: the earliest time at which all can be done.
    """

    race: Race
    owner_M: IntArray
    floor_K: Array
    times: int
    least_s: float

    @classmethod
    def of(
        cls,
        band: RadioBand,
        owner_M: IntArray,
        ready_s_K: Array,
        bits_K: Array,
        cap_w_K: Array,
        floor_K: Array,
        times: int,
    ) -> Uplink | None:
        """The band; None where a client that sends has no rate, or not the least rate, within the caps."""
        from wavetune.allocation.water_filling import Race, log_and_inverse, owners_delay

        log_KM, inverse_KM = log_and_inverse(band.snr_per_w_KM)
        need_K = np.asarray(bits_K / band.subchannel_hz, dtype=np.float64)
        owner_M = np.where(owner_M >= 0, np.where(need_K[owner_M] > 0, owner_M, -1), -1)
        race = Race(log_KM, inverse_KM, np.asarray(ready_s_K, np.float64), need_K, cap_w_K, band.total_power_max_w)
        start_s = float(np.max(ready_s_K))
        if not np.any(need_K > 0):
            return cls(race, owner_M, floor_K, times, start_s)
        uplink = cls(race, owner_M, floor_K, times, max(owners_delay(race, owner_M), start_s))
        if not np.isfinite(uplink.least_s):
            return None
        least_s = earliest(uplink.within_caps, uplink.least_s)
        return None if least_s is None else cls(race, owner_M, floor_K, times, least_s)

    @property
    def sends(self) -> bool:
        """Whether anybody sends anything."""
        return bool(np.any(self.race.need_K > 0))

    def within_caps(self, done_s: float) -> bool:
        """Whether the powers to be done by a time keep the caps."""
        from wavetune.allocation.airtime import spent_until

        _, power_w_K = spent_until(self.race, self.owner_M, self.floor_K, done_s)
        within = np.all(power_w_K <= self.race.cap_w_K * (1 + _ROUNDING))
        return bool(within) and float(np.sum(power_w_K)) <= self.race.total_w * (1 + _ROUNDING)

    def joules_K(self, done_s: float) -> Array:
        """Energy of a round's transfers in this band if each is done at a time (J)."""
        from wavetune.allocation.airtime import spent_until

        return self.times * spent_until(self.race, self.owner_M, self.floor_K, done_s)[0]

    def allocation(self, done_s: float) -> Allocation:
        """Owners and powers; what rounding adds to a cap is taken off."""
        from wavetune.allocation.airtime import powers_until

        power_w_M = powers_until(self.race, self.owner_M, self.floor_K, done_s)
        spent_w_K = Allocation(self.owner_M, power_w_M).power_w_K(len(self.race.need_K))
        scale_K = np.minimum(1.0, self.race.cap_w_K / np.maximum(spent_w_K, 1e-300))
        power_w_M = np.where(self.owner_M >= 0, power_w_M * scale_K[self.owner_M], 0.0)
        return Allocation(self.owner_M, power_w_M * min(1.0, self.race.total_w / max(float(power_w_M.sum()), 1e-300)))


def earliest(holds: Callable[[float], bool], low_s: float) -> float | None:
    """Earliest time from `low_s` on at which a condition holds that holds ever after; None if not within 1e9 times."""
    if holds(low_s):
        return low_s
    high_s = low_s
    while not holds(high_s := 2.0 * high_s):
        if not high_s < 1e9 * low_s:
            return None
    low_s = max(low_s, 0.5 * high_s)
    while high_s - low_s > 1e-12 * high_s:
        middle_s = 0.5 * (low_s + high_s)
        low_s, high_s = (low_s, middle_s) if holds(middle_s) else (middle_s, high_s)
    return high_s
