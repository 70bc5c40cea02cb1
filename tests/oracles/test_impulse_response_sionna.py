"""Gains of paths against the frequency response that Sionna makes of the same paths."""

import numpy as np
import pytest

from wavetune.wireless.impulse_response import gains_of_paths

pytestmark = pytest.mark.filterwarnings("ignore")  # the oracle's own warnings are not ours

BATCH, ANTENNAS, DEVICES, OF_DEVICE, PATHS, STEPS, SUBCHANNELS, SUBCHANNEL_HZ = 2, 3, 4, 2, 6, 5, 7, 5e5


def test_gains_are_those_of_sionnas_frequency_response():
    channel = pytest.importorskip("sionna.phy.channel")
    import torch

    draw = np.random.default_rng(0)
    shape = (BATCH, 1, ANTENNAS, DEVICES, OF_DEVICE, PATHS, STEPS)
    a = 1e-5 * (draw.standard_normal((2, *shape)) * np.array([1, 1j]).reshape(2, *[1] * len(shape))).sum(0)
    tau_s = draw.exponential(3e-7, (BATCH, 1, DEVICES, PATHS))
    frequency_hz = (np.arange(SUBCHANNELS) - 3) * SUBCHANNEL_HZ
    tensors = (torch.tensor(x, dtype=kind) for x, kind in ((frequency_hz, torch.float32), (a, torch.complex64),
                                                           (tau_s, torch.float32)))  # fmt: skip
    response = channel.cir_to_ofdm_channel(*tensors).numpy()  # [batch, 1, antennas, K, of device, steps, M]
    power = (np.abs(response[:, 0]) ** 2).sum(axis=1).mean(axis=2)  # [batch, K, steps, M]
    expected = np.swapaxes(power, 1, 2).reshape(BATCH * STEPS, DEVICES, SUBCHANNELS)
    np.testing.assert_allclose(gains_of_paths(a, tau_s, SUBCHANNELS, SUBCHANNEL_HZ), expected, rtol=2e-4)


def test_what_a_model_of_sionna_returns_is_taken_as_it_is():
    channel = pytest.importorskip("sionna.phy.channel")
    model = channel.RayleighBlockFading(num_rx=1, num_rx_ant=2, num_tx=3, num_tx_ant=1)
    a, tau_s = model(batch_size=4, num_time_steps=1)
    response = channel.cir_to_ofdm_channel(channel.subcarrier_frequencies(5, 5e5), a, tau_s).numpy()
    expected = (np.abs(response[:, 0, :, :, 0, 0]) ** 2).sum(axis=1)
    np.testing.assert_allclose(gains_of_paths(a, tau_s, 5, 5e5), expected, rtol=2e-4)
