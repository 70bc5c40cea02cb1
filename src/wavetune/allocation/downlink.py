"""Least delay of the way back by counting subchannels; only where the downlink is priced."""

from __future__ import annotations

import numpy as np

from wavetune.allocation.problem import RadioBand
from wavetune.units import Array
from wavetune.wireless.rates import subchannel_rate_bit_per_s


def downlink_rate_bit_per_s_KM(band: RadioBand) -> Array:
    """Rate of every subchannel to every client (bit/s), infinite where the downlink is not priced."""
    if band.downlink_gain_KM is None:
        return np.full(band.gain_KM.shape, np.inf)
    power_w = band.downlink_power_w / band.num_subchannels
    return subchannel_rate_bit_per_s(
        power_w, band.downlink_gain_KM, band.noise_w, band.subchannel_hz, band.interference_w_M
    )


def least_downlink_s(band: RadioBand, bits_K: Array, after_s_K: Array) -> float:
    """Lower bound on max_k(bits / downlink rate + after) over all owners of the subchannels (s).

    Model: at a delay, each client needs at least so many subchannels as its strongest ones would do; together these
    must not exceed M. The server's power is spread evenly over all subchannels.

    Args:
        band: downlink gains and power.
        bits_K: what each client receives.
        after_s_K: what it does afterwards (s).
    """
    least_s = float(np.max(after_s_K))
    if band.downlink_gain_KM is None or not np.any(bits_K > 0):
        return least_s
    M, rate_KM = band.num_subchannels, downlink_rate_bit_per_s_KM(band)
    best_KM = np.cumsum(-np.sort(-rate_KM, axis=1), axis=1)
    gets = bits_K > 0
    if np.any(best_KM[gets, -1] <= 0):
        return np.inf
    low_s = max(least_s, float(np.max(after_s_K[gets] + bits_K[gets] / best_KM[gets, -1])))

    def fits(delay_s: float) -> bool:
        need_K = bits_K[gets] / np.maximum(delay_s - after_s_K[gets], 1e-300)
        return int(np.sum(1 + np.sum(best_KM[gets] < need_K[:, None] * (1 - 1e-12), axis=1))) <= M

    high_s = low_s
    while not fits(high_s):
        low_s, high_s = high_s, 2 * high_s
    for _ in range(40):
        middle_s = 0.5 * (low_s + high_s)
        low_s, high_s = (low_s, middle_s) if fits(middle_s) else (middle_s, high_s)
    return low_s * (1 - 1e-9)
