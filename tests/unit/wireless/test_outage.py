import numpy as np
import pytest

from wavetune.seeds import stream
from wavetune.wireless.fading import Rayleigh
from wavetune.wireless.outage import in_outage, rayleigh_outage_probability
from wavetune.wireless.rates import subchannel_rate_bit_per_s


def test_a_link_at_the_minimum_rate_holds_and_a_dead_one_never_does():
    assert in_outage(np.array([0.0, 9.0, 10.0, 11.0]), 10.0).tolist() == [True, True, False, False]
    assert in_outage(np.array([0.0, 1.0]), 0.0).tolist() == [True, False]
    assert in_outage(np.array([5.0, 5.0]), np.array([4.0, 6.0])).tolist() == [False, True]


@pytest.mark.parametrize("mean_snr", [1.0, 10.0, 100.0])
def test_rayleigh_links_fail_as_often_as_the_closed_form_says(mean_snr):
    gain_KM = Rayleigh().power_gain([stream(0, "outage", 0, k) for k in range(200)], 200, 5e5)
    rate_KM = subchannel_rate_bit_per_s(1.0, gain_KM, 1 / mean_snr, 5e5)
    failed = in_outage(rate_KM, 5e5 * 1.5).mean()
    assert failed == pytest.approx(rayleigh_outage_probability(mean_snr, 1.5), abs=0.01)
