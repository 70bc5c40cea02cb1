import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wavetune.seeds import stream
from wavetune.wireless.channel import LinkState
from wavetune.wireless.fading import Rayleigh
from wavetune.wireless.presets import paper
from wavetune.wireless.rate_models import Shannon
from wavetune.wireless.rates import client_rates, downlink_rates, subchannel_rate_bit_per_s, uplink_rates
from wavetune.wireless.scenario import Band, Population, Scenario, Server

POWERS_W = st.floats(0, 100)
GAINS = st.floats(1e-18, 1)
NOISE_W = st.floats(1e-18, 1e-6)
BANDWIDTHS_HZ = st.floats(1, 1e9)


@given(POWERS_W, POWERS_W, GAINS, NOISE_W, BANDWIDTHS_HZ)
def test_rate_grows_with_power(low_w, high_w, gain, noise_w, hz):
    low_w, high_w = sorted((low_w, high_w))
    low, high = subchannel_rate_bit_per_s(np.array([low_w, high_w]), gain, noise_w, hz)
    assert low <= high


@given(POWERS_W, GAINS, GAINS, NOISE_W, BANDWIDTHS_HZ)
def test_rate_grows_with_gain(power_w, weak, strong, noise_w, hz):
    weak, strong = sorted((weak, strong))
    low, high = subchannel_rate_bit_per_s(power_w, np.array([weak, strong]), noise_w, hz)
    assert low <= high


@given(POWERS_W, GAINS, NOISE_W, BANDWIDTHS_HZ, st.floats(1e-18, 1e-3))
def test_interference_acts_as_noise_and_lowers_the_rate(power_w, gain, noise_w, hz, interference_w):
    clean = subchannel_rate_bit_per_s(power_w, gain, noise_w, hz)
    jammed = subchannel_rate_bit_per_s(power_w, gain, noise_w, hz, interference_w)
    assert jammed <= clean
    assert jammed == subchannel_rate_bit_per_s(power_w, gain, noise_w + interference_w, hz)
    assert clean == subchannel_rate_bit_per_s(power_w, gain, noise_w, hz, 0.0)


@given(POWERS_W, GAINS, NOISE_W, BANDWIDTHS_HZ)
def test_double_bandwidth_at_equal_densities_doubles_the_rate(power_w, gain, noise_w, hz):
    rate = subchannel_rate_bit_per_s(power_w, gain, noise_w, hz)
    assert subchannel_rate_bit_per_s(2 * power_w, gain, 2 * noise_w, 2 * hz) == pytest.approx(2 * rate)


@given(POWERS_W, NOISE_W, BANDWIDTHS_HZ)
def test_nothing_arrives_without_gain_or_power(power_w, noise_w, hz):
    assert subchannel_rate_bit_per_s(power_w, 0.0, noise_w, hz) == 0
    assert subchannel_rate_bit_per_s(0.0, 1.0, noise_w, hz) == 0


@pytest.mark.parametrize("gain", [1e-18, 1e-15, 1e-9, 1.0])
def test_rates_stay_finite_over_all_gains_and_exact_at_low_snr(gain):
    rate = float(subchannel_rate_bit_per_s(1e-3, gain, 2e-15, 5e5))
    assert 0 < rate < 1e8
    assert subchannel_rate_bit_per_s(1e-18, gain, 1.0, 5e5) == pytest.approx(
        5e5 * 1e-18 * gain / math.log(2), rel=1e-12, abs=0
    )


@st.composite
def allocations(draw):
    num_clients, num_subchannels = draw(st.integers(1, 5)), draw(st.integers(1, 8))
    return (
        draw(arrays(np.int64, num_subchannels, elements=st.integers(-1, num_clients - 1))),
        draw(arrays(np.float64, num_subchannels, elements=st.floats(0, 2))),
        draw(arrays(np.float64, (num_clients, num_subchannels), elements=st.just(0.0) | st.floats(1e-18, 1e-6))),
        draw(arrays(np.float64, num_subchannels, elements=st.just(0.0) | st.floats(1e-16, 1e-6))),
    )


@given(allocations())
def test_client_rates_equal_a_loop_over_owned_subchannels(allocation):
    owner_M, power_w_M, gain_KM, interference_w_M = allocation
    rate_K = client_rates(owner_M, power_w_M, gain_KM, 2e-15, 5e5, interference_w_M)
    for k in range(len(gain_KM)):
        total = 0.0
        for m in range(len(owner_M)):
            if owner_M[m] == k:
                total += 5e5 * math.log1p(power_w_M[m] * gain_KM[k, m] / (2e-15 + interference_w_M[m])) / math.log(2)
        assert rate_K[k] == pytest.approx(total)


IDEAL = paper()


def link(gain_KM, interference_w_M=None):
    gain_KM = np.asarray(gain_KM, np.float64)
    quiet = np.zeros(gain_KM.shape[1])
    return LinkState(gain_KM, gain_KM / 4, quiet if interference_w_M is None else np.asarray(interference_w_M))


def test_uplink_and_downlink_use_their_own_gain_and_power():
    band = Band(num_subchannels=2, subchannel_hz=1e6, noise_psd_dbm_per_hz=-180.0, downlink_power_dbm=30.0)
    scenario = Scenario(server=Server(noise_figure_db=10.0), population=Population(noise_figure_db=0.0), rate=Shannon())
    state, owner_M = link([[3e-15, 3e-15], [1e-15, 1e-15]]), np.array([0, 1])
    np.testing.assert_allclose(uplink_rates(scenario, band, state, owner_M, np.array([10.0, 30.0])), [2e6, 2e6])
    half_w_each = 1e6 * np.log2(1 + 0.5 * np.array([3e-15, 1e-15]) / 4 / 1e-15)
    np.testing.assert_allclose(downlink_rates(scenario, band, state, owner_M), half_w_each)
    np.testing.assert_array_equal(downlink_rates(scenario, band, state, np.array([-1, -1])), [0, 0])


def test_a_jammed_link_is_slower_in_both_directions():
    band, owner_M = Band(num_subchannels=2), np.array([0, 0])
    quiet, jammed = link(np.full((1, 2), 1e-10)), link(np.full((1, 2), 1e-10), [1e-12, 0.0])
    for rates, power in ((uplink_rates, (np.ones(2),)), (downlink_rates, ())):
        assert rates(IDEAL, band, jammed, owner_M, *power) < rates(IDEAL, band, quiet, owner_M, *power)


@pytest.mark.parametrize("mean_snr", [1.0, 10.0, 100.0])
def test_rayleigh_links_carry_too_little_as_often_as_the_closed_form_says(mean_snr):
    """P = 1 - exp(-(2^s - 1) / snr) for a spectral efficiency s, since |h|^2 is exponential with mean 1."""
    gain_KM = Rayleigh().power_gain([stream(0, "outage", 0, k) for k in range(200)], 200, 5e5)
    rate_KM = subchannel_rate_bit_per_s(1.0, gain_KM, 1 / mean_snr, 5e5)
    assert np.mean(rate_KM < 5e5 * 1.5) == pytest.approx(-math.expm1(-(2**1.5 - 1) / mean_snr), abs=0.01)
