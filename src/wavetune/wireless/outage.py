"""Outage: a link whose rate is below what a transfer needs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wavetune.units import Array


def in_outage(rate_bit_per_s_K: Array, min_rate_bit_per_s: float | Array) -> NDArray[np.bool_]:
    """[K] clients whose rate is below the minimum, or zero.

    >>> in_outage(np.array([0.0, 1e6, 2e6]), 1.5e6).tolist()
    [True, True, False]
    """
    rate = np.asarray(rate_bit_per_s_K, np.float64)
    return (rate < min_rate_bit_per_s) | (rate <= 0)


def rayleigh_outage_probability(mean_snr: float | Array, spectral_efficiency_bit_per_s_per_hz: float | Array) -> Array:
    """Probability that a Rayleigh link carries less than a spectral efficiency.

    Formula: P = 1 - exp(-(2^s - 1) / snr), since |h|^2 is exponential with mean 1.

    Args:
        mean_snr: snr, mean signal-to-noise ratio (linear).
        spectral_efficiency_bit_per_s_per_hz: s, required rate over bandwidth, bit/s/Hz.

    Returns:
        Probability, broadcast shape.

    >>> round(float(rayleigh_outage_probability(10.0, 1.0)), 6)
    0.095163
    """
    return -np.expm1(-np.expm1(np.log(2) * np.asarray(spectral_efficiency_bit_per_s_per_hz, np.float64)) / mean_snr)
