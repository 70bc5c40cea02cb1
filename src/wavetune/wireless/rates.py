"""OFDMA rates of the uplink and the downlink (shape letters: K clients, M subchannels)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wavetune.units import Array

if TYPE_CHECKING:
    from wavetune.wireless.channel import LinkState
    from wavetune.wireless.scenario import Band


def subchannel_rate_bit_per_s(
    power_w: float | Array,
    gain: float | Array,
    noise_w: float | Array,
    subchannel_hz: float,
    interference_w: float | Array = 0.0,
) -> Array:
    """Shannon rate of a subchannel.

    Formula: R = B log2(1 + p g / (N + I)).

    Args:
        power_w: p, transmit power on the subchannel, W.
        gain: g, linear power gain from transmitter to receiver.
        noise_w: N, noise power in the subchannel, W (noise PSD times B).
        subchannel_hz: B, Hz.
        interference_w: I, interference power in the subchannel at the receiver, W.

    Returns:
        bit/s, in the broadcast shape of the arguments; 0 where power or gain is 0.

    Ignores: modulation and coding losses, cyclic prefix and pilots.

    >>> float(subchannel_rate_bit_per_s(1.0, 3e-15, 1e-15, 1e6))
    2000000.0
    """
    snr = np.multiply(power_w, gain, dtype=np.float64) / np.add(noise_w, interference_w)
    return subchannel_hz * np.log1p(snr) / np.log(2)


def client_rates(
    owner_M: NDArray[np.int_],
    power_w_M: Array,
    gain_KM: Array,
    noise_w: float,
    subchannel_hz: float,
    interference_w: float | Array = 0.0,
) -> Array:
    """Rate of every client: the sum over the subchannels it owns.

    Args:
        owner_M: [M] index of the owning client, -1 where a subchannel is unused.
        power_w_M: [M] transmit power on each subchannel, W.
        gain_KM: [K, M] linear power gains.
        noise_w: noise power in a subchannel, W.
        subchannel_hz: bandwidth of a subchannel, Hz.
        interference_w: interference power, W, scalar or [M].

    Returns:
        [K] rates, bit/s; 0 for a client that owns nothing.

    >>> client_rates(np.array([0, 0, -1]), np.ones(3), np.full((2, 3), 3e-15), 1e-15, 1e6).tolist()
    [4000000.0, 0.0]
    """
    owner_gain_M = gain_KM[owner_M, np.arange(len(owner_M))]  # of no meaning where there is no owner
    rate_M = subchannel_rate_bit_per_s(power_w_M, owner_gain_M, noise_w, subchannel_hz, interference_w)
    is_owner_KM = owner_M == np.arange(len(gain_KM))[:, None]
    return np.where(is_owner_KM, rate_M, 0.0).sum(axis=1)


def uplink_rates(band: Band, link: LinkState, owner_M: NDArray[np.int_], power_w_M: Array) -> Array:
    """[K] uplink rates in bit/s of one band under an allocation of subchannels and powers."""
    return client_rates(
        owner_M, power_w_M, link.uplink_gain_KM, band.noise_w, band.subchannel_hz, link.interference_w_M
    )


def downlink_rates(band: Band, link: LinkState, owner_M: NDArray[np.int_]) -> Array:
    """[K] downlink rates in bit/s: the server's power is spread evenly over all subchannels, used or not."""
    power_w_M = np.full(band.num_subchannels, band.downlink_power_w / band.num_subchannels)
    return client_rates(
        owner_M, power_w_M, link.downlink_gain_KM, band.noise_w, band.subchannel_hz, link.interference_w_M
    )
