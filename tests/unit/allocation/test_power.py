import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavetune.allocation.delay import uplink_rate_bit_per_s_K
from wavetune.allocation.power import allocate_power, uniform_power
from wavetune.allocation.problem import RadioBand
from wavetune.wireless.rate_models import Shannon


def random_case(seed, K, M, low=-18.0):
    """Owners that give every client a subchannel, on gains of many magnitudes."""
    g = np.random.default_rng(seed)
    gain_KM = 10 ** g.uniform(low, 0, (K, 1)) * 10 ** g.uniform(-4, 0, (K, M))
    band = RadioBand(gain_KM, 1e6, 10 ** g.uniform(-21, -18), 10 ** g.uniform(-2, 1) * K)
    owner_M = np.concatenate([np.arange(K), g.integers(-1, K, M - K)])
    return band, owner_M, g.uniform(0, 1, K), 10 ** g.uniform(3, 8, K), 10 ** g.uniform(-2, 1, K)


def finish_s(band, allocation, ready_s_K, bits_K):
    return ready_s_K + bits_K / uplink_rate_bit_per_s_K(band, allocation.owner_M, allocation.power_w_M)


@given(st.integers(0, 2**32))
def test_optimality_conditions_hold_for_any_caps_and_gains(seed):
    g = np.random.default_rng(seed)
    K = int(g.integers(1, 60))
    assert_optimal(*random_case(seed, K, int(g.integers(K, 4 * K + 1))))


@pytest.mark.parametrize("seed", range(3))
def test_optimality_conditions_hold_for_a_thousand_clients(seed):
    assert_optimal(*random_case(seed, 1000, 4000, low=-14.0))


def assert_optimal(band, owner_M, ready_s_K, bits_K, cap_w_K):
    """The conditions of Karush, Kuhn and Tucker for the powers of given owners, which here suffice."""
    K = len(bits_K)
    allocation, delay_s = allocate_power(band, owner_M, ready_s_K, bits_K, cap_w_K)
    done_s_K = finish_s(band, allocation, ready_s_K, bits_K)
    assert done_s_K.max() == pytest.approx(delay_s, rel=1e-6)
    spent_w_K = allocation.power_w_K(K)
    assert np.all(allocation.power_w_M >= 0)
    assert np.all(spent_w_K <= cap_w_K * (1 + 1e-9))
    assert spent_w_K.sum() <= band.total_power_max_w * (1 + 1e-9)
    # Nobody can be faster: the total is spent with all finishing together, or the last client spends its own cap.
    total_binds = spent_w_K.sum() >= band.total_power_max_w * (1 - 1e-6)
    last_K = done_s_K >= delay_s * (1 - 1e-9)
    assert (total_binds and done_s_K.min() >= delay_s * (1 - 1e-6)) or np.any(
        spent_w_K[last_K] >= cap_w_K[last_K] * (1 - 1e-6)
    )
    # Water-filling: where a client sends, power plus inverse gain is one level; elsewhere the inverse gain is above it.
    inverse_M = 1 / band.snr_per_w_KM[owner_M, np.arange(len(owner_M))]
    for k in range(K):
        own = owner_M == k
        power_w, inverse = allocation.power_w_M[own], inverse_M[own]
        level_w = (power_w + inverse)[power_w > 0].max()
        assert np.all((power_w + inverse)[power_w > 0] >= level_w * (1 - 1e-6))
        assert np.all(inverse[power_w == 0] >= level_w * (1 - 1e-5))


def test_two_equal_clients_share_the_total_by_hand():
    band = RadioBand(np.full((2, 2), 3e-15), 1e6, 1e-21, 2.0)
    allocation, delay_s = allocate_power(band, np.array([0, 1]), np.zeros(2), np.full(2, 4e6), np.ones(2))
    assert delay_s == pytest.approx(2.0, rel=1e-12)
    assert allocation.power_w_M == pytest.approx([1.0, 1.0])


def test_a_client_that_is_ready_later_sends_with_more_power():
    band = RadioBand(np.full((2, 2), 3e-15), 1e6, 1e-21, 2.0)
    allocation, _ = allocate_power(band, np.array([0, 1]), np.array([0.0, 1.0]), np.full(2, 4e6), np.full(2, 2.0))
    assert allocation.power_w_M[1] > allocation.power_w_M[0]
    assert finish_s(band, allocation, np.array([0.0, 1.0]), np.full(2, 4e6)) == pytest.approx([2.68366] * 2, rel=1e-5)


def test_a_client_with_bits_and_no_usable_subchannel_never_finishes():
    band = RadioBand(np.array([[1e-9, 1e-9], [0.0, 1e-9]]), 1e6, 1e-21, 2.0)
    for owner in ([0, 0], [1, 0]):
        assert allocate_power(band, np.array(owner), np.zeros(2), np.ones(2), np.ones(2))[1] == np.inf


@pytest.mark.parametrize("limit", [None, 7.4])
def test_whoever_waits_for_ages_still_has_a_rate(limit):
    band = RadioBand(np.full((3, 4), 1e-3), 1e3, 1e-18, 1e-70, rate=Shannon(max_bit_per_s_per_hz=limit))
    ready_s_K, bits_K = np.array([1e112, 0.0, 1.0]), np.full(3, 1e-60)
    allocation, delay_s = allocate_power(band, np.array([0, 1, 2, 0]), ready_s_K, bits_K, np.ones(3))
    done_s_K = finish_s(band, allocation, ready_s_K, bits_K)
    assert delay_s == done_s_K.max() == 1e112
    assert np.all(allocation.power_w_K(3) > 0)
    assert allocation.power_w_M.sum() <= 1e-70


def test_nobody_who_has_nothing_to_send_spends_power():
    band = RadioBand(np.full((2, 3), 1e-9), 1e6, 1e-21, 2.0)
    allocation, delay_s = allocate_power(band, np.array([0, 1, 0]), np.zeros(2), np.array([0.0, 1e6]), np.ones(2))
    assert allocation.owner_M.tolist() == [-1, 1, -1]
    assert allocation.power_w_K(2)[0] == 0.0
    assert np.isfinite(delay_s)
    nobody, delay_s = allocate_power(band, np.array([0, 1, 0]), np.zeros(2), np.zeros(2), np.ones(2))
    assert (nobody.power_w_M.sum(), delay_s) == (0.0, -np.inf)


def test_uniform_power_is_one_density_within_each_cap():
    band = RadioBand(np.full((2, 4), 1e-9), 1e6, 1e-21, 2.0)
    allocation = uniform_power(band, np.array([0, 0, 0, 1]), np.array([0.6, 1.0]))
    assert allocation.power_w_M == pytest.approx([0.2, 0.2, 0.2, 0.5])
    assert uniform_power(band, np.array([-1, 0, 0, 1]), np.ones(2)).power_w_M[0] == 0.0
