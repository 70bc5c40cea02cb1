"""Probability of line of sight in the scenarios of 3GPP TR 38.901 Table 7.4.2-1.

Distances are horizontal, between the feet of the antennas. The table was derived for server heights of 25 m (urban
macro), 10 m (urban micro) and 3 m (indoor); the height of the server does not enter the formulas.
"""

import numpy as np

from wavetune.units import Array


def urban_macro_los_probability(distance_2d_m: float | Array, device_height_m: float = 1.5) -> Array:
    """Probability of line of sight in an urban macro cell (UMa).

    Formula: 1 for d <= 18 m, else [18/d + exp(-d/63) (1 - 18/d)] [1 + C' 5/4 (d/100)^3 exp(-d/150)], where C' is 0
    below a device height h of 13 m and ((h - 13)/10)^1.5 above. Just beyond 18 m the formula exceeds 1 for high
    devices; it is cut off there.

    Args:
        distance_2d_m: d, horizontal distance, m.
        device_height_m: h, m.

    Returns:
        Probability in the shape of the distance.

    Ignores: correlation between neighbouring devices (clause 7.6.3.3) and indoor devices.

    Source: TR 38.901 Table 7.4.2-1.

    >>> urban_macro_los_probability(np.array([18.0, 180.0])).round(4).tolist()
    [1.0, 0.1517]
    """
    d = np.asarray(distance_2d_m, np.float64)
    higher = 1 + _height_factor(device_height_m) * _above_rooftops(d)
    return np.minimum(_urban(np.maximum(d, 18.0), 63.0) * higher, 1.0)


def urban_micro_los_probability(distance_2d_m: float | Array) -> Array:
    """Probability of line of sight in a street canyon (UMi).

    Formula: 1 for d <= 18 m, else 18/d + exp(-d/36) (1 - 18/d).

    Args:
        distance_2d_m: d, horizontal distance, m.

    Returns:
        Probability in the shape of the distance.

    Ignores: correlation between neighbouring devices and indoor devices.

    Source: TR 38.901 Table 7.4.2-1.

    >>> urban_micro_los_probability(np.array([18.0, 36.0])).round(4).tolist()
    [1.0, 0.6839]
    """
    return _urban(np.maximum(distance_2d_m, 18.0), 36.0)


def open_office_los_probability(distance_2d_m: float | Array) -> Array:
    """Probability of line of sight in an open office (InH).

    Formula: 1 for d <= 5 m, exp(-(d - 5)/70.8) up to 49 m, then 0.54 exp(-(d - 49)/211.7).

    Args:
        distance_2d_m: d, horizontal distance, m.

    Returns:
        Probability in the shape of the distance.

    Source: TR 38.901 Table 7.4.2-1.

    >>> open_office_los_probability(np.array([5.0, 75.8, 260.7])).round(4).tolist()
    [1.0, 0.4758, 0.1987]
    """
    d = np.asarray(distance_2d_m, np.float64)
    return np.where(d <= 49, np.exp(-np.maximum(d - 5, 0) / 70.8), 0.54 * np.exp(-(d - 49) / 211.7))


def mixed_office_los_probability(distance_2d_m: float | Array) -> Array:
    """Probability of line of sight in an office with rooms and corridors (InH).

    Formula: 1 for d <= 1.2 m, exp(-(d - 1.2)/4.7) below 6.5 m, then 0.32 exp(-(d - 6.5)/32.6).

    Args:
        distance_2d_m: d, horizontal distance, m.

    Returns:
        Probability in the shape of the distance.

    Source: TR 38.901 Table 7.4.2-1.

    >>> mixed_office_los_probability(np.array([1.2, 5.9, 39.1])).round(4).tolist()
    [1.0, 0.3679, 0.1177]
    """
    d = np.asarray(distance_2d_m, np.float64)
    return np.where(d < 6.5, np.exp(-np.maximum(d - 1.2, 0) / 4.7), 0.32 * np.exp(-(d - 6.5) / 32.6))


def urban_macro_environment_height_m(
    distance_2d_m: float | Array, device_height_m: float, uniform: float | Array
) -> Array:
    """Effective height of the surroundings in an urban macro cell, which shortens the breakpoint distance.

    Model: 1 m with probability 1 / (1 + C), C = C' 5/4 (d/100)^3 exp(-d/150) beyond 18 m and 0 within; otherwise
    uniform over 12, 15, ... up to the device height less 1.5 m. Devices below 13 m always have 1 m.

    Args:
        distance_2d_m: d, horizontal distance, m.
        device_height_m: m.
        uniform: a draw of U[0, 1) per device that decides.

    Returns:
        Height in m, broadcast shape.

    Source: TR 38.901 Table 7.4.1-1, note 1.

    >>> urban_macro_environment_height_m(300.0, 22.5, np.array([0.0, 0.99])).tolist()
    [1.0, 21.0]
    """
    d = np.asarray(distance_2d_m, np.float64)
    probability_low = 1 / (1 + _height_factor(device_height_m) * _above_rooftops(d))
    num_heights = max(1, (device_height_m - 13.5) // 3 + 1)
    # The rest of the unit interval is shared equally by the heights; the floor keeps 0/0 away where there is no rest.
    rest = (uniform - probability_low) / np.maximum(1 - probability_low, 1e-12)
    return np.where(uniform < probability_low, 1.0, 12 + 3 * np.minimum(rest * num_heights // 1, num_heights - 1))


def _urban(far_m: Array, decay_m: float) -> Array:
    near = 18 / far_m
    return near + np.exp(-far_m / decay_m) * (1 - near)


def _height_factor(device_height_m: float) -> float:
    return max(0.0, (device_height_m - 13) / 10) ** 1.5


def _above_rooftops(distance_2d_m: Array) -> Array:
    return np.where(distance_2d_m <= 18, 0.0, 1.25 * (distance_2d_m / 100) ** 3 * np.exp(-distance_2d_m / 150))
