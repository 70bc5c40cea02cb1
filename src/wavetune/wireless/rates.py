"""OFDMA rates of the uplink and the downlink (shape letters: K clients, M subchannels)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wavetune.errors import ConfigError
from wavetune.units import Array
from wavetune.wireless.rate_models import RateModel, Shannon

if TYPE_CHECKING:
    from wavetune.wireless.channel import LinkState
    from wavetune.wireless.scenario import Band, Scenario

_SHANNON = Shannon()


def subchannel_rate_bit_per_s(
    power_w: float | Array,
    gain: float | Array,
    noise_w: float | Array,
    subchannel_hz: float,
    interference_w: float | Array = 0.0,
    rate: RateModel = _SHANNON,
    uplink: bool = True,
) -> Array:
    """Rate of a subchannel.

    Formula: that of the rate model at the ratio p g / (N + I); Shannon's R = B log2(1 + p g / (N + I)) by default.

    Args:
        power_w: p, transmit power on the subchannel, W.
        gain: g, linear power gain from transmitter to receiver.
        noise_w: N, noise power in the subchannel, W (noise PSD times B).
        subchannel_hz: B, Hz.
        interference_w: I, interference power in the subchannel at the receiver, W.
        rate: what a subchannel carries at a ratio.
        uplink: the direction.

    Returns:
        bit/s, in the broadcast shape of the arguments; 0 where power or gain is 0.

    Raises:
        ConfigError: a power is negative or no number.

    >>> float(subchannel_rate_bit_per_s(1.0, 3e-15, 1e-15, 1e6))
    2000000.0
    """
    if not np.all(np.greater_equal(power_w, 0.0)):
        raise ConfigError(f"power_w is {np.min(power_w):g} but must be at least 0; powers are in watts, not in dBm")
    snr = np.multiply(power_w, gain, dtype=np.float64) / np.add(noise_w, interference_w)
    return rate.rate_bit_per_s(snr, subchannel_hz, uplink)


def client_rates(
    owner_M: NDArray[np.int_],
    power_w_M: Array,
    gain_KM: Array,
    noise_w: float,
    subchannel_hz: float,
    interference_w: float | Array = 0.0,
    rate: RateModel = _SHANNON,
    uplink: bool = True,
) -> Array:
    """Rate of every client: the sum over the subchannels it owns.

    Args:
        owner_M: [M] index of the owning client, -1 where a subchannel is unused.
        power_w_M: [M] transmit power on each subchannel, W.
        gain_KM: [K, M] linear power gains.
        noise_w: noise power in a subchannel, W.
        subchannel_hz: bandwidth of a subchannel, Hz.
        interference_w: interference power, W, scalar, [M] or, where it differs by client, [K, M].
        rate: what a subchannel carries at a ratio.
        uplink: the direction.

    Returns:
        [K] rates, bit/s; 0 for a client that owns nothing.

    >>> client_rates(np.array([0, 0, -1]), np.ones(3), np.full((2, 3), 3e-15), 1e-15, 1e6).tolist()
    [4000000.0, 0.0]
    """
    own = owner_M, np.arange(len(owner_M))  # of no meaning where there is no owner
    heard_w = np.asarray(interference_w, dtype=np.float64)
    heard_w = heard_w[own] if heard_w.ndim == 2 else heard_w
    rate_M = subchannel_rate_bit_per_s(power_w_M, gain_KM[own], noise_w, subchannel_hz, heard_w, rate, uplink)
    is_owner_KM = owner_M == np.arange(len(gain_KM))[:, None]
    return np.where(is_owner_KM, rate_M, 0.0).sum(axis=1)


def uplink_rates(scenario: Scenario, band: Band, link: LinkState, owner_M: NDArray[np.int_], power_w_M: Array) -> Array:
    """[K] uplink rates in bit/s in one band of a scenario under an allocation of subchannels and powers."""
    return _rates(scenario, band, link, link.uplink_gain_KM, owner_M, power_w_M, uplink=True)


def downlink_rates(scenario: Scenario, band: Band, link: LinkState, owner_M: NDArray[np.int_]) -> Array:
    """[K] downlink rates in bit/s: the server's power is spread evenly over all subchannels, used or not."""
    power_w_M = np.full(band.num_subchannels, band.downlink_power_w / band.num_subchannels)
    return _rates(scenario, band, link, link.downlink_gain_KM, owner_M, power_w_M, uplink=False)


def _rates(
    scenario: Scenario,
    band: Band,
    link: LinkState,
    gain_KM: Array,
    owner_M: NDArray[np.int_],
    power_w_M: Array,
    uplink: bool,
) -> Array:
    noise_w, down_w_KM = scenario.noise_w_per_hz(band, uplink) * band.subchannel_hz, link.downlink_interference_w_KM
    interference_w = link.interference_w_M if uplink or down_w_KM is None else down_w_KM
    return client_rates(owner_M, power_w_M, gain_KM, noise_w, band.subchannel_hz, interference_w, scenario.rate, uplink)
