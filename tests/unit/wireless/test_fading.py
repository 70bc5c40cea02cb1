import numpy as np
import pytest
from scipy import stats

from wavetune.seeds import stream
from wavetune.wireless.fading import NUM_TAPS, NoFading, Rayleigh, Rician

MODELS = [
    NoFading(),
    Rayleigh(),
    Rayleigh(frequency_selective=False),
    Rayleigh(delay_spread_s=300e-9),
    Rician(),
    Rician(k_factor_db=0.0, frequency_selective=False),
    Rician(k_factor_db=3.0, delay_spread_s=300e-9),
]
HZ = 500e3


def gain_KM(model, num_clients=5, num_subchannels=20, seed=0):
    generators = [stream(seed, "fading", 0, k) for k in range(num_clients)]
    return model.power_gain(generators, num_subchannels, HZ)


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_mean_power_is_one(model):
    draws = gain_KM(model, num_clients=6000, num_subchannels=2)
    assert draws.mean() == pytest.approx(1, abs=0.04)
    assert (draws >= 0).all()


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_a_subchannel_does_not_depend_on_how_many_there_are(model):
    np.testing.assert_allclose(gain_KM(model, num_subchannels=30)[:, :7], gain_KM(model, num_subchannels=7), rtol=1e-12)


@pytest.mark.parametrize(
    "model", [Rayleigh(), Rayleigh(frequency_selective=False), Rayleigh(delay_spread_s=300e-9)], ids=str
)
def test_rayleigh_power_is_exponential(model):
    draws = gain_KM(model, num_clients=5000, num_subchannels=10)[:, 9]
    assert stats.kstest(draws, "expon").pvalue > 1e-3


@pytest.mark.parametrize("k_factor_db", [-5.0, 0.0, 9.0])
def test_rician_power_is_noncentral_chi_square(k_factor_db):
    k = 10 ** (k_factor_db / 10)
    draws = gain_KM(Rician(k_factor_db=k_factor_db), num_clients=5000, num_subchannels=1)[:, 0]
    assert stats.kstest(draws * 2 * (k + 1), stats.ncx2(df=2, nc=2 * k).cdf).pvalue > 1e-3


def test_no_fading_is_exactly_one():
    assert (gain_KM(NoFading()) == 1).all()


@pytest.mark.parametrize("options", [{}, {"frequency_selective": False}, {"delay_spread_s": 1e-7}])
def test_rician_goes_from_rayleigh_to_no_fading(options):
    strong, none = Rician(k_factor_db=300.0, **options), Rician(k_factor_db=-300.0, **options)
    np.testing.assert_allclose(gain_KM(strong), gain_KM(NoFading()), atol=1e-13)
    np.testing.assert_allclose(gain_KM(none), gain_KM(Rayleigh(**options)), rtol=1e-12)


def test_flat_fading_is_the_same_on_all_subchannels_and_differs_between_clients():
    flat_KM = gain_KM(Rayleigh(frequency_selective=False))
    assert (flat_KM == flat_KM[:, :1]).all()
    assert len(set(flat_KM[:, 0])) == 5


def test_subchannels_fade_independently_without_a_delay_spread():
    correlation = np.corrcoef(gain_KM(Rayleigh(), num_clients=10_000, num_subchannels=3).T)
    np.testing.assert_allclose(correlation, np.eye(3), atol=0.04)


@pytest.mark.parametrize("delay_spread_s", [3e-8, 3e-7, 3e-6])
def test_a_delay_spread_correlates_powers_as_an_exponential_profile(delay_spread_s):
    powers_KM = gain_KM(Rayleigh(delay_spread_s=delay_spread_s), num_clients=4000, num_subchannels=4)
    profile = 1 / (1 + (2 * np.pi * HZ * np.arange(4) * delay_spread_s) ** 2)
    expected = profile + (1 - profile) / NUM_TAPS  # a finite number of taps leaves a little correlation
    np.testing.assert_allclose(np.corrcoef(powers_KM.T)[0], expected, atol=0.06)


def test_a_tiny_delay_spread_is_flat():
    powers_KM = gain_KM(Rayleigh(delay_spread_s=1e-15))
    np.testing.assert_allclose(powers_KM, np.broadcast_to(powers_KM[:, :1], powers_KM.shape), rtol=1e-6)


def test_vectorised_taps_equal_a_loop():
    model = Rician(k_factor_db=3.0, delay_spread_s=3e-7)
    powers_KM, k_factor = gain_KM(model), 10**0.3
    for k in range(5):
        generator = stream(0, "fading", 0, k)
        taps = [complex(*generator.standard_normal(2)) / np.sqrt(2 * NUM_TAPS) for _ in range(NUM_TAPS)]
        delays_s = [3e-7 * generator.standard_exponential() for _ in range(NUM_TAPS)]
        for m in range(20):
            scattered = sum(t * np.exp(-2j * np.pi * m * HZ * d) for t, d in zip(taps, delays_s, strict=True))
            h = np.sqrt(k_factor / (k_factor + 1)) + np.sqrt(1 / (k_factor + 1)) * scattered
            assert powers_KM[k, m] == pytest.approx(abs(h) ** 2)
