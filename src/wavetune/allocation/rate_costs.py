"""What a rate costs a client in a band at given prices: a lower bound for all rates from a few tangents.

The prices of `prices` give each client's cheapest bundle of subchannels and power for one rate, as the smaller of two
concave maximisations over multipliers: sets of at most n subchannels, and larger ones. The multipliers that are best at
one rate bound the cost at every other rate by a line, so that a table of tangents serves all rates, hence all cuts.
Shape suffixes: K clients, M subchannels, J rates, G rates, 2 for sets of at most n subchannels and of more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wavetune.allocation.band import copy_prices, with_cap_tolerance
from wavetune.allocation.prices import (
    NOT_SLOW,
    ClientPrices,
    Prices,
    Wanted,
    best_one_way,
    heard_by,
    new_scratch,
    sorted_weights,
)
from wavetune.allocation.water_filling import BandProblem, kernel
from wavetune.units import Array

_LOG_2 = float(np.log(2.0))


@dataclass(frozen=True, eq=False)
class RateCosts:
    """Tangents of each client's cost at G rates (bit/s/Hz) from `low_K` on, each `ratio` times the one before.

    `value_KG2` and `slope_KG2` are of the two kinds of sets, the smaller of which holds; nobody has a rate above
    `most_K`.
    """

    most_K: Array
    low_K: Array
    ratio: float
    value_KG2: Array
    slope_KG2: Array
    weight_M: Array

    def at(self, rate: Array) -> Array:
        """Least share of the band that a rate takes, [K, ...] for rates [K, ...]; 0 for rate 0, infinite above 1."""
        num_rates = self.value_KG2.shape[1]
        k = np.arange(len(rate)).reshape(-1, *(1,) * (rate.ndim - 1))
        low = self.low_K[k]
        with np.errstate(divide="ignore"):
            place = np.floor(np.log(rate / low) / np.log(self.ratio))
        below = np.clip(place, 0, num_rates - 1).astype(np.int64)
        cost = np.zeros(rate.shape)
        for g in (below, np.minimum(below + 1, num_rates - 1)):
            beyond = (np.minimum(rate, 1e300) - low * self.ratio**g)[..., None]
            cost = np.maximum(cost, np.min(self.value_KG2[k, g] + self.slope_KG2[k, g] * beyond, axis=-1))
        return np.where((cost > 1.0) | (rate > self.most_K[k]), np.inf, np.where(rate > 0, cost, 0.0))

    def most_of(self, value_KM: Array, cost_KJ: Array) -> Array:
        """Most that subchannels of a total cost can be worth to each client, [K, J], a part of one counting as such.

        Args:
            value_KM: what each subchannel is worth, at least 0; they add up.
            cost_KJ: total costs, at least 0.
        """
        most_KJ = np.empty_like(cost_KJ)
        for k, value_M in enumerate(value_KM):
            order = np.argsort(-value_M / np.maximum(self.weight_M, 1e-300), kind="stable")
            spent_M, worth_M = (np.concatenate(([0.0], np.cumsum(x[order]))) for x in (self.weight_M, value_M))
            most_KJ[k] = np.interp(cost_KJ[k] * (1 + 1e-9), spent_M, worth_M)
        return most_KJ


def rate_costs(
    problem: BandProblem, prices: Prices | None, most_K: Array, low_K: Array, ratio: float, num_rates: int
) -> RateCosts:
    """Costs of the rates from `low_K` on for the problem's clients; they hold for every plan that is forgiven its caps.

    Without prices every rate up to `most_K` is free.
    """
    if prices is None:
        nothing_KG2 = np.zeros((len(low_K), 1, 2))
        return RateCosts(most_K, low_K, ratio, nothing_KG2, nothing_KG2, np.zeros_like(problem.log_KM[0]))
    value_KG2, slope_KG2 = _tangents(with_cap_tolerance(problem), copy_prices(prices), low_K, ratio, num_rates)
    weight_M = np.asarray(prices.weight_M1, dtype=np.float64)[:-1]
    return RateCosts(most_K, low_K, ratio, value_KG2, slope_KG2, weight_M)


@kernel
def _tangents(problem: BandProblem, prices: Prices, low_K: Array, ratio: float, num_rates: int) -> tuple[Array, Array]:
    K, M = problem.log_KM.shape
    value_KG2, slope_KG2 = np.full((K, num_rates, 2), np.inf), np.zeros((K, num_rates, 2))
    weight_M, watt_price = prices.weight_M1[:M], float(prices.weight_M1[M]) / problem.total_w
    weights = sorted_weights(problem, weight_M)
    scratches = (new_scratch(M, problem.steps), new_scratch(M, problem.steps))
    for k in range(K):
        cap_w, heard = float(problem.cap_w_K[k]), heard_by(problem, k)
        for g in range(num_rates):
            rate, n, best, size, side = low_K[k] * ratio**g, int(prices.count_K[k]), np.inf, 0.0, 0
            for more in range(1, -1, -1):
                if n + more == 0:
                    continue
                wanted = Wanted(rate, 0.0, watt_price, n + more, more == 1, 1e-6 / K, NOT_SLOW)
                start = ClientPrices(float(prices.level_K2[k, more]), float(prices.dearer_K2[k, more]), 0.0)
                bundle, found = best_one_way(heard, weights, cap_w, problem.limit, wanted, start, scratches[more])
                dearer = found.dearer
                prices.level_K2[k, more], prices.dearer_K2[k, more] = bundle.level, dearer
                slope = bundle.level * watt_price * dearer * _LOG_2
                magnitude = slope * (rate + 100.0 * (n + 1)) + abs(bundle.value) + watt_price * dearer * cap_w
                value_KG2[k, g, more] = bundle.value - 1e-12 * magnitude
                slope_KG2[k, g, more] = slope
                if bundle.value < best:
                    best, size, side = bundle.value, bundle.size, more
            if (side == 1 and size > n + 1 + 1e-9) or (side == 0 and size < n - 1e-9):
                prices.count_K[k] = int(size)
            if best > 1.5:
                for later in range(g + 1, num_rates):
                    for more in range(2):
                        value_KG2[k, later, more] = value_KG2[k, g, more] + slope_KG2[k, g, more] * (
                            low_K[k] * ratio**later - rate
                        )
                        slope_KG2[k, later, more] = slope_KG2[k, g, more]
                break
    return value_KG2, slope_KG2
