"""From the paths of a channel, as ray tracers and Sionna give them, to gains per subchannel."""

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from wavetune.errors import ConfigError
from wavetune.units import Array


def gains_of_paths(a: Any, tau_s: Any, num_subchannels: int, subchannel_hz: float) -> Array:
    """Power gains of one server's antennas and K devices on every subchannel.

    Formula: h(f) = sum_p a_p exp(-2 pi j f tau_p) at the middle f of each subchannel, measured from the carrier; the
    gain is the sum of |h|^2 over the server's antennas, which combines them by maximum ratio, and the mean over a
    device's antennas.

    Args:
        a: complex path coefficients as Sionna's channel models return them, [batch, receivers, receiver antennas,
            transmitters, transmitter antennas, paths, time steps]; the server is the one receiver, the K devices are
            transmitters. An array or a tensor of any library, or a pair of real and imaginary parts; of a ray tracer
            without the batch.
        tau_s: path delays, s, [batch, receivers, transmitters, paths], or for each pair of antennas, [batch, receivers,
            receiver antennas, transmitters, transmitter antennas, paths].
        num_subchannels: M of the band.
        subchannel_hz: width of each.

    Returns:
        [batch * time steps, K, M] linear power gains: batches one after another, each with its time steps as rounds.

    Raises:
        ConfigError: the shapes are others, or there is more than one receiver.

    Ignores: how the gain varies within a subchannel.

    >>> one_path = np.full((1, 1, 1, 1, 1, 1, 1), 3e-5j)
    >>> gains_of_paths(one_path, np.full((1, 1, 1, 1), 1e-7), 2, 1e6).round(12).tolist()
    [[[9e-10, 9e-10]]]
    """
    given, delay_s = _coefficients(a), _on_host(tau_s).astype(np.float64)
    if given.ndim == 6:
        given, delay_s = given[None], delay_s[None]
    batch, receivers, of_server, devices, of_device, paths, _ = (*given.shape, *(-1 for _ in range(7 - given.ndim)))[:7]
    shapes = {(batch, receivers, devices, paths), (batch, receivers, of_server, devices, of_device, paths)}
    if given.ndim != 7 or receivers != 1 or delay_s.shape not in shapes:
        raise ConfigError(
            f"paths have coefficients of shape {given.shape} and delays of shape {delay_s.shape}; these must be [batch,"
            " 1 receiver, its antennas, devices, their antennas, paths, time steps] and [batch, 1 receiver, devices, "
            "paths]: choose one receiver, and let the devices send"
        )
    frequency_hz_M = (np.arange(num_subchannels) - (num_subchannels - 1) / 2) * subchannel_hz
    turn = np.exp(-2j * np.pi * delay_s[:, 0, ..., None] * frequency_hz_M)
    # b batch, r antennas of the server, u devices, a antennas of a device, p paths, s time steps, m subchannels
    h = np.einsum(f"bruaps,{'bupm' if delay_s.ndim == 4 else 'bruapm'}->bsuram", given[:, 0], turn)
    power = np.square(np.abs(h)).sum(axis=3).mean(axis=3)  # over the server's antennas, over the device's
    return power.reshape(-1, *power.shape[2:])


def _coefficients(a: Any) -> NDArray[np.complexfloating]:
    if isinstance(a, tuple | list):
        real, imaginary = map(_on_host, cast("tuple[Any, Any]", a))
        return real + 1j * imaginary
    return _on_host(a)


def _on_host(values: Any) -> NDArray[Any]:
    """An array of what may be a tensor, of PyTorch with gradients or on an accelerator, too."""
    for step in ("detach", "cpu"):
        values = getattr(values, step, lambda values=values: values)()
    return np.asarray(values)
