"""Fractional power control of the uplink: how much of its path loss a device makes up for."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge, Le

from wavetune.errors import ConfigError
from wavetune.parts import Part
from wavetune.units import Array
from wavetune.wireless.validation import Checked

BLOCK_HZ = 180e3  # a resource block at numerology 0; at mu it is 2^mu times as wide (TS 38.211 clause 4.4.4.1)
ALPHAS = (0.0, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True)
class PowerControl(Checked, Part):
    """Open-loop power control: at a distance a device sends with more, at most with its own power.

    Formula: P = min(P_max, P0 + 10 log10(2^mu M) + alpha PL), in dBm and dB. 2^mu M resource blocks at numerology mu
    are as wide as that many of 180 kHz, so that the width alone counts. PL is the loss between the connectors, antennas
    included, as a device finds it from reference signals, and alpha is one of the values that a network can signal.

    Ignores: the terms of the modulation and of the closed loop, which are 0 until a network sends commands.

    Source: TS 38.213 clause 7.1.1; alpha and the range of P0 of TS 38.331 (Alpha, p0-NominalWithGrant).
    """

    p0_dbm: Annotated[float, Ge(-202), Le(24)] = -80.0
    alpha: Annotated[float, Ge(0), Le(1)] = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha not in ALPHAS:
            raise ConfigError(
                f"alpha is {self.alpha:g}, which no network can signal; give one of "
                f"{', '.join(f'{alpha:g}' for alpha in ALPHAS)}"
            )

    def power_dbm(self, most_dbm: Array | float, width_hz: float, loss_db: Array) -> Array:
        """Transmit power over a width of the band, in the shape of the loss.

        >>> float(PowerControl(-80.0, 0.8).power_dbm(23.0, 1.8e6, np.array(100.0)))
        10.0
        """
        return np.minimum(most_dbm, self.p0_dbm + 10 * np.log10(width_hz / BLOCK_HZ) + self.alpha * loss_db)
