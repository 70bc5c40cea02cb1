"""From the paths of a channel, as ray tracers and Sionna give them, to gains per subchannel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wavetune.units import Array


def gains_of_paths(a: NDArray[np.complexfloating], tau_s: Array, num_subchannels: int, subchannel_hz: float) -> Array:
    """Power gains of one server's antennas and K devices on every subchannel.

    Formula: h(f) = sum_p a_p exp(-2 pi j f tau_p) at the middle f of each subchannel, measured from the carrier; the
    gain is the sum of |h|^2 over the server's antennas, which combines them by maximum ratio, and the mean over a
    device's antennas.

    Args:
        a: complex path coefficients as Sionna's channel models return them, [batch, receivers, receiver antennas,
            transmitters, transmitter antennas, paths, time steps]; the server is the one receiver, the K devices are
            transmitters.
        tau_s: path delays, s, [batch, receivers, transmitters, paths].
        num_subchannels: M of the band.
        subchannel_hz: width of each.

    Returns:
        [batch * time steps, K, M] linear power gains: batches one after another, each with its time steps as rounds.

    Ignores: how the gain varies within a subchannel.

    >>> one_path = np.full((1, 1, 1, 1, 1, 1, 1), 3e-5j)
    >>> gains_of_paths(one_path, np.full((1, 1, 1, 1), 1e-7), 2, 1e6).round(12).tolist()
    [[[9e-10, 9e-10]]]
    """
    frequency_hz_M = (np.arange(num_subchannels) - (num_subchannels - 1) / 2) * subchannel_hz
    turn = np.exp(-2j * np.pi * tau_s[:, 0, :, :, None] * frequency_hz_M)  # [batch, K, paths, M]
    h = np.einsum("braups,bupm->bsuram", a[:, 0].transpose(0, 1, 3, 2, 4, 5), turn)
    power = np.square(np.abs(h)).sum(axis=3).mean(axis=3)  # over the server's antennas, over the device's
    return power.reshape(-1, *power.shape[2:])
