"""Largest rates on ever more of a client's subchannels, which go on from one another, against each by itself."""

import numpy as np
import pytest
from numba import njit

from wavetune.allocation.gains import log_and_inverse
from wavetune.allocation.water_filling import BandProblem, most_rate, strongest_rates


@njit
def one_by_one(log_KM, inverse_KM, power_w, limit):
    rate_KM = np.zeros(log_KM.shape)
    for k in range(len(log_KM)):
        order = np.argsort(-log_KM[k])
        for n in range(log_KM.shape[1]):
            rate_KM[k, n] = most_rate(log_KM[k], inverse_KM[k], order, n + 1, power_w, limit)
    return rate_KM


@pytest.mark.parametrize("limit", [np.inf, 7.4, 1.0])
@pytest.mark.parametrize("power_w", [0.2, 1e-6, 1e3, 0.0])
def test_they_are_those_of_each_number_of_subchannels_by_itself(power_w, limit):
    rng = np.random.default_rng(0)
    snr_per_w_KM = rng.exponential(1.0, (6, 40)) * np.array([1e9, 3e5, 1e3, 20.0, 1e-3, 1e-300])[:, None]
    snr_per_w_KM[1, ::3] = 0.0
    log_KM, inverse_KM = log_and_inverse(snr_per_w_KM)
    ones = np.ones(6)
    problem = BandProblem(log_KM, inverse_KM, 0 * ones, ones, power_w * ones, 1e9, limit)
    wanted = one_by_one(log_KM, inverse_KM, power_w, limit) if power_w else np.zeros(log_KM.shape)
    np.testing.assert_allclose(strongest_rates(problem), wanted, rtol=1e-12, atol=0)
