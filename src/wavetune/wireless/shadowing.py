"""Log-normal shadowing: a normal term in dB, drawn once per device."""

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

    Ignores: correlation between neighbouring devices (`draw_correlated` has it) and over time.

    Source: TR 38.901 clause 7.4.4 and the shadowing column of Table 7.4.1-1.
    """
    return std_db_K * np.array([generator.standard_normal() for generator in generators], np.float64)


def draw_correlated(position_m_K2: Array, distance_m: float, generators: Sequence[np.random.Generator]) -> Array:
    """Draw terms of mean 0 and deviation 1, correlated between devices that stand close.

    Model: E[z_j z_k] = exp(-|x_j - x_k| / distance_m). Device k's term is made of its own draw and of those of the
    devices before it, so that it stays when others are added after it.

    Args:
        position_m_K2: [K, 2] positions, m.
        distance_m: distance at which the correlation has fallen to 1/e, m.
        generators: [K] one random generator per client.

    Returns:
        [K] terms.

    Ignores: that links in and out of sight are said to be uncorrelated.

    Source: TR 38.901 clause 7.4.4, with the correlation distances of Table 7.5-6 (UMa 37 m in sight and 50 m out of it,
    UMi 10 and 13 m, RMa 37 and 120 m, InH 10 and 6 m).
    """
    apart_m_KK = np.linalg.norm(position_m_K2[:, None] - position_m_K2[None], axis=2)
    covariance_KK = np.exp(-apart_m_KK / distance_m) + 1e-12 * np.eye(len(apart_m_KK))  # two may stand at one place
    draws_K = np.array([generator.standard_normal() for generator in generators], np.float64)
    factor_KK = np.asarray(np.linalg.cholesky(covariance_KK), np.float64)
    return factor_KK @ draws_K
