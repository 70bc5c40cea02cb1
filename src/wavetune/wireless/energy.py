"""Energy of computing and of transmitting."""

import numpy as np

from wavetune.units import Array


def compute_energy_j(flop: float | Array, energy_j_per_flop: float | Array) -> Array:
    """Energy of `flop` floating-point operations, J (broadcasts).

    >>> float(compute_energy_j(2e12, 5e-12))
    10.0
    """
    return np.multiply(flop, energy_j_per_flop, dtype=np.float64)


def energy_j_per_flop(switched_capacitance: Array | float, clock_hz: Array, cycles_per_flop: Array | float) -> Array:
    """Energy per floating-point operation of a processor, J/FLOP.

    Formula: E = c f^2 kappa, the dynamic power c f^3 of a CMOS processor over its f / kappa FLOP/s.

    Args:
        switched_capacitance: c, J s^2 per cycle (effective switched capacitance).
        clock_hz: f, clock frequency, Hz.
        cycles_per_flop: kappa, cycles per FLOP.

    Returns:
        J/FLOP, in the shape of `clock_hz`.

    Ignores: static power, memory traffic and frequency scaling during a run.

    >>> float(energy_j_per_flop(1e-27, np.float64(2e9), 0.25))
    1e-09
    """
    return switched_capacitance * np.square(clock_hz) * cycles_per_flop


def radio_energy_j(tx_power_w: float | Array, airtime_s: float | Array) -> Array:
    """Energy radiated at a constant power, J (broadcasts): E = P t; 0 W costs nothing however long it lasts.

    Ignores: circuit power and the efficiency of the amplifier.

    >>> float(radio_energy_j(0.5, 4.0))
    2.0
    """
    power_w, time_s = np.broadcast_arrays(np.asarray(tx_power_w, np.float64), np.asarray(airtime_s, np.float64))
    return np.multiply(power_w, time_s, out=np.zeros(power_w.shape), where=power_w > 0)
