"""Gains as compiled functions take them: logarithms and inverses, with values that stand for no gain."""

import numpy as np

from wavetune.units import Array

NO_GAIN_LOG2 = -1e30
_LEAST_SNR_PER_W = 1e-250  # Below, the inverse overflows.


def log_and_inverse(snr_per_w_KM: Array) -> tuple[Array, Array]:
    """Tables of log2 h and 1/h; a subchannel without gain gets values that make every rate on it unaffordable."""
    heard = snr_per_w_KM > _LEAST_SNR_PER_W
    safe = np.where(heard, snr_per_w_KM, 1.0)
    return np.where(heard, np.log2(safe), NO_GAIN_LOG2), np.where(heard, 1.0 / safe, 0.0)
