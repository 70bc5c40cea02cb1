"""What prices found on few of a client's subchannels prove is worked out on all of them."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from wavetune.allocation.dual_bound import excess
from wavetune.allocation.prices import Prices
from wavetune.allocation.water_filling import BandProblem, log_and_inverse

DELAY_S = 2.0


def large_problem(g, ask):
    """Three clients on 400 subchannels, who may ask something of the way back."""
    K, M = 3, 400
    tables = log_and_inverse(10 ** g.uniform(0, 3, (K, 1)) * g.exponential(size=(K, M)))
    back = {"back_KM": g.exponential(size=(K, M)), "ask_K": g.uniform(1, 8, K)} if ask else {}
    limit = 7.4 if g.random() < 0.5 else np.inf
    return BandProblem(
        *tables, g.uniform(0, 1, K), 10 ** g.uniform(0, 1.5, K), 10 ** g.uniform(-2, 1, K), 3.0, limit, **back
    )


def proved(problem, prices, k, side):
    """What client k's prices prove that a side of its sets costs, from the definition."""
    M = problem.log_KM.shape[1]
    watt_price = prices.weight_M1[M] / problem.total_w
    power_price, level_w = watt_price * prices.dearer_K2[k, side], prices.level_K2[k, side]
    rate_price = level_w * power_price * np.log(2)
    most_w_M = np.expm1(problem.limit * np.log(2)) * problem.inverse_KM[k]
    power_w_M = np.clip(level_w - problem.inverse_KM[k], 0.0, most_w_M)
    gain_M = rate_price * np.log2(1 + power_w_M / problem.inverse_KM[k]) - power_price * power_w_M
    cost_M, spent = prices.weight_M1[:M] - gain_M, rate_price * problem.need_K[k] / (DELAY_S - problem.ready_K[k])
    if len(problem.ask_K):
        cost_M = cost_M - prices.back_price_K2[k, side] * problem.back_KM[k]
        spent += prices.back_price_K2[k, side] * problem.ask_K[k]
    cost_M, n = np.sort(cost_M), int(prices.count_K[k])
    cost = np.sum(np.minimum(cost_M[:n], 0.0))
    if side == 1:
        cost = np.sum(cost_M[: n + 1]) + np.sum(np.minimum(cost_M[n + 1 :], 0.0))
    return spent - (power_price - watt_price) * problem.cap_w_K[k] + cost


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.booleans())
def test_a_bundle_costs_what_its_prices_prove_on_all_subchannels(seed, ask):
    g = np.random.default_rng(seed)
    problem = large_problem(g, ask)
    K, M = problem.log_KM.shape
    weight_M1 = g.dirichlet(np.full(M + 1, 10 ** g.uniform(-1, 1)))
    back_price_K2 = g.exponential(size=(K, 2)) if ask else np.zeros((0, 2))
    prices = Prices(weight_M1, g.integers(1, 4, K), 10 ** g.uniform(-3, 1, (K, 2)), np.ones((K, 2)), back_price_K2)
    for _ in range(3):  # counts of subchannels settle
        counts_K = prices.count_K.copy()
        over, _, _ = excess(problem, prices, DELAY_S)
    assume(np.array_equal(counts_K, prices.count_K))
    least_K = [min(proved(problem, prices, k, side) for side in (0, 1) if counts_K[k] + side > 0) for k in range(K)]
    assert over == pytest.approx(sum(least_K) - 1.0, rel=1e-6, abs=1e-6)
