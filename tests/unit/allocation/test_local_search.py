"""What a step of the local search could save at most, which tells it which steps to work out."""

import numpy as np
import pytest

from wavetune.allocation.local_search import Demand, changed_price, least_price, ownership
from wavetune.allocation.water_filling import kernel, log_and_inverse


@kernel
def furthest_above(demand, owner_M):
    """How far the bound of a price of changed subchannels is above that price, over all clients and changes."""
    own, furthest = ownership(demand, owner_M), -np.inf
    K, M = demand.log_KM.shape
    for k in range(K):
        for without in range(-1, M):
            for extra in range(-1, M):
                owns = without < 0 or own.owner_M[without] == k
                if owns and (extra < 0 or own.owner_M[extra] != k):
                    exact = changed_price(demand, own, k, np.int64(without), np.int64(extra))
                    bound = least_price(demand, own, k, without, extra)
                    furthest = max(furthest, (bound - exact) / (1e-12 + abs(exact)))
    return furthest


@pytest.mark.parametrize("seed", range(40))
def test_no_change_of_what_a_client_owns_costs_less_than_its_bound(seed):
    g = np.random.default_rng(seed)
    K, M = 3, 7
    heard_KM = g.random((K, M)) < 0.9
    snr_per_w_KM = 10 ** g.uniform(-2, 5, (K, 1)) * g.exponential(size=(K, M)) * heard_KM
    asks = {"back_KM": g.exponential(size=(K, M)), "ask_K": g.uniform(0, 4, K), "shortage_price_K": np.full(K, 1e4)}
    demand = Demand(
        *log_and_inverse(snr_per_w_KM), 10 ** g.uniform(-2, 1.3, K), 10 ** g.uniform(-3, 1, K), 3.0, np.full(K, 1e3),
        limit=7.4 if seed % 2 else np.inf, **(asks if seed % 3 else {}),
    )  # fmt: skip
    assert furthest_above(demand, g.integers(-1, K, M)) <= 1e-6
