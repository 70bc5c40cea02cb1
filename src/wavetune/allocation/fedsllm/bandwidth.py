"""The least bandwidth for a rate (FDMA): the lemma of FedsLLM in a form that stays exact at both ends of the range.

A client with carrier-to-noise density q = p g / N0 (Hz) sends b log2(1 + q / b) bit/s over b Hz, and less than q / ln 2
however wide the band. Its spectral efficiency y = ln(1 + q / b), in nat/s/Hz, gives all else: b = q / (e^y - 1), and a
payload takes (e^y - 1) / y times the time that an infinite bandwidth would ask.
Source: FedsLLM (arXiv 2407.09250) states that a lemma gives the exact solution; this form is our reconstruction.
"""

from __future__ import annotations

import numpy as np

from wavetune.units import Array

_LN2 = float(np.log(2.0))
_SMALL = 1e-5


def least_bandwidth_hz(rate_bit_per_s: float | Array, carrier_to_noise_hz: float | Array) -> Array:
    """Least bandwidth with which a client reaches a rate.

    Formula: b = -R ln 2 / (W_{-1}(-z e^-z) + z) with z = R ln 2 / q and the branch -1 of Lambert's W.
    Computed as b = q / (e^y - 1), y = -W_{-1}(-z e^-z) - z the root of z (e^y - 1) = y, as the quotient above loses all
    digits where z is close to 1.

    Args:
        rate_bit_per_s: R, at least 0.
        carrier_to_noise_hz: q, received power over noise density, at least 0.

    Returns:
        Hz, in the broadcast shape; 0 for rate 0, infinite where z >= 1: no bandwidth is enough.

    Ignores: a limit on the modulation order.

    >>> round(float(least_bandwidth_hz(2e6, 3e6)), 3)
    1000000.0
    >>> float(least_bandwidth_hz(5e6, 3e6))
    inf
    """
    rate, q = np.broadcast_arrays(np.asarray(rate_bit_per_s, np.float64), np.asarray(carrier_to_noise_hz, np.float64))
    reachable = (rate > 0) & (rate * _LN2 < q)
    bandwidth_hz = np.where(rate > 0, np.inf, 0.0)
    bandwidth_hz[reachable] = bandwidth_at(q[reachable], efficiency(-np.log(rate[reachable] * _LN2 / q[reachable])))
    return bandwidth_hz


def fdma_rate_bit_per_s(bandwidth_hz: float | Array, carrier_to_noise_hz: float | Array) -> Array:
    """Rate over a bandwidth: b log2(1 + q / b), 0 for no bandwidth.

    >>> float(fdma_rate_bit_per_s(1e6, 3e6))
    2000000.0
    """
    bandwidth, q = np.broadcast_arrays(
        np.asarray(bandwidth_hz, np.float64), np.asarray(carrier_to_noise_hz, np.float64)
    )
    snr = np.divide(q, bandwidth, out=np.zeros(q.shape), where=bandwidth > 0)
    return bandwidth * np.log1p(snr) / _LN2


def least_time_s(bits: float | Array, carrier_to_noise_hz: float | Array) -> Array:
    """Time of a payload with an infinite bandwidth, s ln 2 / q (s).

    >>> float(least_time_s(3e6, 1e6 * np.log(2)))
    3.0
    """
    return np.asarray(np.multiply(bits, _LN2) / carrier_to_noise_hz, dtype=np.float64)


def efficiency(log_stretch: Array) -> Array:
    """Spectral efficiency y (nat/s/Hz) at which a payload takes exp(log_stretch) times its least time.

    Model: log((e^y - 1) / y) = log_stretch > 0. The left side is convex, so Newton's method from above converges
    monotonically: four steps from the start used here leave an error below 1e-15 of y + 1.
    """
    target = np.maximum(log_stretch, _SMALL)
    y = np.minimum(2 * target, target + 2 * np.log1p(target))
    for _ in range(4):
        rising = -np.expm1(-y)
        y = y - (y + np.log(rising / y) - target) / (1 / rising - 1 / y)
    return np.where(log_stretch > _SMALL, y, log_stretch * (2 - log_stretch / 3))


def bandwidth_at(carrier_to_noise_hz: Array, y: Array) -> Array:
    """Bandwidth q / (e^y - 1) at a spectral efficiency (Hz)."""
    return carrier_to_noise_hz * np.exp(-y) / -np.expm1(-y)


def excess(y: Array) -> Array:
    """By how much a payload outlasts its least time at a spectral efficiency: (e^y - 1) / y - 1.

    >>> excess(np.array([1e-12, 1.0])).round(15).tolist()
    [5e-13, 0.718281828459045]
    """
    small = np.minimum(y, 0.1)
    series = small / 2 * (1 + small / 3 * (1 + small / 4 * (1 + small / 5 * (1 + small / 6 * (1 + small / 7)))))
    return np.where(y > 0.1, np.expm1(y) / np.maximum(y, 0.1) - 1, series)


def log_saved_per_second(y: Array) -> Array:
    """Logarithm of the bandwidth that a second more saves, in units of q over the least time t0.

    Model: -db/dt = (q / t0) e^-2y / ((1 - e^-y)^2 h), h = (y - 1 + e^-y) / y^2.
    """
    small = np.minimum(y, 0.1)
    series = 0.5 - small / 6 * (1 - small / 4 * (1 - small / 5 * (1 - small / 6 * (1 - small / 7))))
    rising = -np.expm1(-y)
    h = np.where(y > 0.1, (y - rising) / np.maximum(y, 0.1) ** 2, series)
    return -2 * y - 2 * np.log(rising) - np.log(h)
