"""Log-normal shadowing: a normal term in dB, drawn once per device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wavetune.units import Array


def draw_shadowing_db(std_db_K: Array, generators: Sequence[np.random.Generator]) -> Array:
    """Draw one shadowing term per device, each from that device's own generator.

    Model: X_k ~ N(0, std_k^2) dB, added to the path loss (a positive term is more loss).

    Args:
        std_db_K: [K] standard deviation, dB.
        generators: [K] one random generator per client.

    Returns:
        [K] shadowing, dB.

    Ignores: correlation between neighbouring devices (TR 38.901 clause 7.6.3) and over time.

    Source: TR 38.901 clause 7.4.4 and the shadowing column of Table 7.4.1-1.
    """
    return std_db_K * np.array([generator.standard_normal() for generator in generators], np.float64)
