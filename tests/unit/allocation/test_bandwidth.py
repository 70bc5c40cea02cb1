import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import lambertw

from wavetune.allocation.fedsllm.bandwidth import efficiency, excess, fdma_rate_bit_per_s, least_bandwidth_hz

LN2 = np.log(2.0)
# z from 1e-12 up to 1 - 1e-12, dense at both ends
RATIOS = np.concatenate([np.logspace(-12, -0.31, 300), 1 - np.logspace(-0.31, -12, 300)])


@pytest.mark.parametrize("carrier_to_noise_hz", [1e-3, 1.0, 1e7, 1e15])
def test_least_bandwidth_meets_the_rate_with_equality_at_both_ends_of_the_range(carrier_to_noise_hz):
    rate = RATIOS * carrier_to_noise_hz / LN2
    bandwidth_hz = least_bandwidth_hz(rate, carrier_to_noise_hz)
    np.testing.assert_allclose(fdma_rate_bit_per_s(bandwidth_hz, carrier_to_noise_hz), rate, rtol=1e-13)
    assert np.all(np.diff(bandwidth_hz) > 0)


def test_least_bandwidth_is_the_lemma_with_the_lower_branch_of_lambert_w():
    z, q = RATIOS[RATIOS < 0.99], 1e7
    rate = z * q / LN2
    lemma_hz = -rate * LN2 / (lambertw(-z * np.exp(-z), -1).real + z)
    np.testing.assert_allclose(least_bandwidth_hz(rate, q), lemma_hz, rtol=1e-11)


def test_a_rate_beyond_what_infinite_bandwidth_gives_needs_infinite_bandwidth():
    q = 1e7
    rates = np.array([0.0, q / LN2 * (1 - 1e-12), q / LN2, 2 * q / LN2])
    bandwidth_hz = least_bandwidth_hz(rates, q)
    assert bandwidth_hz[0] == 0
    assert np.isfinite(bandwidth_hz[1])
    assert np.isinf(bandwidth_hz[2:]).all()
    assert np.isinf(least_bandwidth_hz(1.0, 0.0))
    assert fdma_rate_bit_per_s(0.0, q) == 0


@given(st.floats(1e-9, 1e9), st.floats(1e-9, 1e9), st.floats(1e-3, 1e3))
def test_bandwidth_scales_with_rate_and_carrier_to_noise_density(rate, q, factor):
    found, scaled = (float(least_bandwidth_hz(f * rate, f * q)) for f in (1.0, factor))
    assert scaled == pytest.approx(factor * found, rel=1e-6)


@given(st.floats(1e-15, 700.0))
def test_efficiency_inverts_the_stretch_of_a_payload(log_stretch):
    y = efficiency(np.array([log_stretch]))
    np.testing.assert_allclose(np.log1p(excess(y)), log_stretch, rtol=1e-9)
