"""The exact power step against a convex solver on small cases."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from wavetune.allocation.power import allocate_power
from wavetune.allocation.problem import RadioBand

cp = pytest.importorskip("cvxpy")


def convex_delay_s(band, owner_M, bits_K, cap_w_K):
    """Least delay without offsets: the largest common multiplier z with rate_k >= z bits_k, solved by Clarabel."""
    K, M = band.gain_KM.shape
    snr_M = band.snr_per_w_KM[owner_M, np.arange(M)]
    power_w_M, z = cp.Variable(M, nonneg=True), cp.Variable()
    nats_M = cp.log1p(cp.multiply(snr_M, power_w_M))
    scale = bits_K / bits_K.max()
    limits = [cp.sum(power_w_M) <= band.total_power_max_w]
    for k in range(K):
        own = np.flatnonzero(owner_M == k)
        limits += [cp.sum(nats_M[own]) >= z * scale[k], cp.sum(power_w_M[own]) <= cap_w_K[k]]
    problem = cp.Problem(cp.Maximize(z), limits)
    problem.solve(solver=cp.CLARABEL)
    if problem.status != cp.OPTIMAL:
        return None
    return bits_K.max() * np.log(2) / (band.subchannel_hz * float(z.value))


@settings(max_examples=25)
@given(st.integers(0, 2**32))
def test_powers_reach_the_delay_of_a_convex_solver(seed):
    g = np.random.default_rng(seed)
    K = int(g.integers(1, 5))
    M = int(g.integers(K, 10))
    # Moderate ratios: the solver fails on what the planner is asked to stand.
    gain_KM = 1e-12 * g.exponential(size=(K, M)) * 10 ** g.uniform(-0.5, 0.5, (K, 1))
    band = RadioBand(gain_KM, 1e6, 1e-18, float(g.uniform(0.3, 1.5) * K))
    owner_M = np.concatenate([np.arange(K), g.integers(0, K, M - K)])
    bits_K, cap_w_K = g.uniform(1e5, 1e6, K), g.uniform(0.2, 2.0, K)
    try:
        expected_s = convex_delay_s(band, owner_M, bits_K, cap_w_K)
    except cp.error.SolverError:
        expected_s = None
    assume(expected_s is not None)
    _, delay_s = allocate_power(band, owner_M, np.zeros(K), bits_K, cap_w_K)
    assert delay_s == pytest.approx(expected_s, rel=1e-5)
