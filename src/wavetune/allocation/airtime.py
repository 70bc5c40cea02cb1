"""Compiled energy of a transfer: what the clients of a band radiate if all are done at a given time.

A client with more time needs a lower rate, and the least power falls faster than the time grows (P(R) is convex with
P(0) = 0), so that whoever waits for the last client spends least by sending all the while. Import it where needed.
"""

from __future__ import annotations

import numpy as np

from wavetune.allocation.compiled import kernel
from wavetune.allocation.problem import IntArray
from wavetune.allocation.water_filling import HUGE_W, Race, least_power, owned_lists, pour
from wavetune.units import Array


@kernel
def spent_until(race: Race, owner_M: IntArray, floor_K: Array, done_s: float) -> tuple[Array, Array]:
    """Least energy (J) and power (W) of each client that is done by `done_s` at no less than its floor (bit/s/Hz)."""
    log_KM, inverse_KM, ready_K, need_K, _, _ = race
    K = len(need_K)
    energy_K, power_K = np.zeros(K), np.zeros(K)
    owned_KM, count_K = owned_lists(log_KM, owner_M)
    for k in range(K):
        if need_K[k] > 0.0:
            rate = max(need_K[k] / max(done_s - ready_K[k], 1e-300), floor_K[k])
            power_w, _ = least_power(log_KM[k], inverse_KM[k], owned_KM[k], count_K[k], rate)
            power_K[k] = power_w
            energy_K[k] = power_w * (need_K[k] / rate) if power_w < HUGE_W else np.inf
    return energy_K, power_K


@kernel
def powers_until(race: Race, owner_M: IntArray, floor_K: Array, done_s: float) -> Array:
    """The powers (W) that `spent_until` adds up, per subchannel."""
    log_KM, inverse_KM, ready_K, need_K, _, _ = race
    power_w_M = np.zeros(len(owner_M))
    owned_KM, count_K = owned_lists(log_KM, owner_M)
    for k in range(len(need_K)):
        if need_K[k] > 0.0:
            rate = max(need_K[k] / max(done_s - ready_K[k], 1e-300), floor_K[k])
            power_w, level_w = least_power(log_KM[k], inverse_KM[k], owned_KM[k], count_K[k], rate)
            pour(log_KM[k], inverse_KM[k], owned_KM[k], count_K[k], rate, power_w, level_w, power_w_M)
    return power_w_M


@kernel
def earliest_affordable(
    race: Race, owner_M: IntArray, floor_K: Array, left_j_K: Array, left_j: float, soonest_s: float
) -> float:
    """Earliest time, from `soonest_s` on, by which all clients can be done within the joules left to each and to all.

    Infinite where a billion times as long would not do.
    """
    log_KM, inverse_KM, ready_K, need_K, _, _ = race
    owned_KM, count_K = owned_lists(log_KM, owner_M)
    low, high, done = soonest_s, soonest_s, soonest_s
    while True:
        energy_j, within = 0.0, True
        for k in range(len(need_K)):
            if need_K[k] > 0.0:
                rate = max(need_K[k] / max(done - ready_K[k], 1e-300), floor_K[k])
                power_w, _ = least_power(log_KM[k], inverse_KM[k], owned_KM[k], count_K[k], rate)
                joules = power_w * (need_K[k] / rate)
                energy_j += joules
                within = within and joules <= left_j_K[k]
        within = within and energy_j <= left_j
        if within and done == soonest_s:
            return done
        if low == high:  # still looking for a time that does
            if within:
                high = done
            elif done >= 1e9 * soonest_s:
                return np.inf
            else:
                low = high = done
        elif within:
            high = done
        else:
            low = done
        if high > low and high - low <= 1e-12 * high:
            return high
        done = 0.5 * (low + high) if high > low else 2.0 * done
