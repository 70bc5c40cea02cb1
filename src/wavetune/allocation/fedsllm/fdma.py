"""Two FDMA uplinks one after the other: the bandwidths with which the last client is done as early as possible.

Problem: min over b of max_k(ready_k + s_k1 / rate_k1 + s_k2 / rate_k2), sum_k b_kj <= B_j in either band; convex.
Solution: three nearly straight functions, the root of each inside the next. The innermost splits a client's time
between its uploads so that a second more saves equally much priced bandwidth in both; the next finds the price of the
first band in terms of the second at which both are equally full; the last the delay at which they are exactly full.
Shape suffixes: K clients; 2 for the uplinks.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from wavetune.allocation.fedsllm.bandwidth import bandwidth_at, efficiency, excess, least_time_s, log_saved_per_second
from wavetune.units import Array


def least_delay_bandwidths(ready_s_K: Array, bits_2K: Array, carrier_to_noise_hz_2K: Array, band_hz_2: Array) -> Array:
    """Bandwidths with which the last client has sent both its payloads as early as possible.

    Args:
        ready_s_K: when each client starts to send (s).
        bits_2K: payloads, positive.
        carrier_to_noise_hz_2K: received power over noise density, positive (Hz).
        band_hz_2: width of both bands, positive (Hz).

    Returns:
        [2, K] Hz; each row adds up to its band.

    >>> shares = least_delay_bandwidths(np.zeros(2), np.full((2, 2), 1e6), np.full((2, 2), 1e9), np.array([1e6, 3e6]))
    >>> shares.round().tolist()
    [[500000.0, 500000.0], [1500000.0, 1500000.0]]
    """
    q_2K, log_band_2 = carrier_to_noise_hz_2K, np.log(band_hz_2)
    least_s_2K = least_time_s(bits_2K, q_2K)
    earliest_s_K = ready_s_K + least_s_2K.sum(axis=0)
    ahead_s_K = np.max(earliest_s_K) - earliest_s_K
    log_scale_2K = np.log(q_2K) - np.log(least_s_2K) - log_band_2[:, None]
    tilt_K, price = np.zeros(len(ready_s_K)), 0.0  # both kept from call to call, as the next answer lies nearby

    def efficiencies(log_spare: float, log_price: float) -> Array:
        """Where no client could save priced bandwidth by moving time from one upload to the other."""
        nonlocal tilt_K
        log_room_2K = np.log(ahead_s_K + math.exp(log_spare)) - np.log(least_s_2K)
        while True:
            log_part_2K = -np.logaddexp(0.0, np.stack([-tilt_K, tilt_K]))
            y_2K = efficiency(np.logaddexp(0.0, log_room_2K + log_part_2K))
            saved_2K = log_scale_2K + log_saved_per_second(y_2K)
            off_K = saved_2K[0] - saved_2K[1] + log_price
            tilt_K = tilt_K + off_K / 2.12  # the slope lies between -2.25 and -2 everywhere
            if np.max(np.abs(off_K)) < 1e-10:
                return y_2K

    def log_loads(log_spare: float, log_price: float) -> Array:
        return np.log(bandwidth_at(q_2K, efficiencies(log_spare, log_price)).sum(axis=1)) - log_band_2

    def log_load(log_spare: float) -> float:
        nonlocal price
        price = root(lambda p: float(np.subtract(*log_loads(log_spare, p))), price, -0.5, (-300.0, 300.0))
        return float(np.max(log_loads(log_spare, price)))

    # With equal bandwidths the last client is done this long after the earliest conceivable moment.
    equal_y_2K = np.log1p(q_2K * len(ready_s_K) / band_hz_2[:, None])
    enough = math.log(np.max((least_s_2K * excess(equal_y_2K)).sum(axis=0) - ahead_s_K))
    log_spare = root(log_load, enough, -1.0, (-690.0, enough + 1.0))
    bandwidth_hz_2K = bandwidth_at(q_2K, efficiencies(log_spare, price))
    return bandwidth_hz_2K * (band_hz_2 / bandwidth_hz_2K.sum(axis=1))[:, None]


def root(
    function: Callable[[float], float],
    start: float,
    slope: float,
    within: tuple[float, float],
    tolerance: float = 1e-9,
) -> float:
    """Root of a monotonic, nearly straight function: secant steps from a guess of the slope, halving where they stall.

    Where there is no root within the range, the end nearest to one.
    """
    x, value, (low, high), stalled = start, function(start), within, False
    for _ in range(100):
        if abs(value) < tolerance or high - low < 1e-12:
            break
        low, high = (x, high) if (value > 0) == (slope < 0) else (low, x)
        ahead = x - value / slope
        ahead = 0.5 * (low + high) if stalled or not low < ahead < high else ahead
        value_ahead = function(ahead)
        secant = (value_ahead - value) / (ahead - x) if ahead != x else slope
        slope = secant if secant * slope > 0 else slope
        stalled = abs(value_ahead) > 0.5 * abs(value)
        x, value = ahead, value_ahead
    return x
