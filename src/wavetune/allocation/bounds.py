"""Lower bounds of a race from prices, and what the prices suggest about who should own what."""

from __future__ import annotations

import numpy as np

from wavetune.allocation.dual_bound import bundles, excess
from wavetune.allocation.prices import Prices
from wavetune.allocation.problem import IntArray
from wavetune.allocation.water_filling import NO_GAIN_LOG2, Race, optimal_power


def uniform_prices(race: Race, owner_M: IntArray, low_s: float, delay_s: float) -> Prices:
    """Equal prices on all subchannels, their share set by bisection to prove most at a delay just below `delay_s`."""
    K, M = race.log_KM.shape
    level_K = optimal_power(race, owner_M)[2]
    count_K = np.bincount(owner_M[owner_M >= 0], minlength=K)
    prices = Prices(np.zeros(M + 1), count_K, np.stack([level_K, level_K], axis=1), np.ones((K, 2)))
    low, high = -20.0, 25.0
    for _ in range(10):
        log_odds = 0.5 * (low + high)
        power_share = 1.0 / (1.0 + np.exp(-log_odds))
        prices.weight_M1[:M] = (1.0 - power_share) / M
        prices.weight_M1[M] = power_share
        over, use_M1 = excess(race, prices, low_s + 0.999 * (delay_s - low_s))
        if over > 0:
            break
        low, high = (log_odds, high) if use_M1[M] / race.total_w > np.mean(use_M1[:M]) else (low, log_odds)
    return prices


def rounded_owners(race: Race, prices: Prices, delay_s: float) -> IntArray:
    """Each subchannel to the client whose cheapest bundle at a delay holds most of it; -1 where none does."""
    share_KM, _ = bundles(race, prices, delay_s)
    return np.where(np.max(share_KM, axis=0) > 0, np.argmax(share_KM, axis=0), -1)


def most_divided(race: Race, prices: Prices, delay_s: float) -> tuple[int, int]:
    """Client and subchannel to branch on; -1 where every subchannel is heard by one client at most.

    The client's cheapest bundle is a mixture of two sets, of which one has the subchannel and one has not; the sets
    share evenly, the client is strained, and of several such subchannels it is the strongest. Where all bundles are
    whole it is the subchannel that most clients want at once.
    """
    open_KM = (race.log_KM > NO_GAIN_LOG2) & (race.need_K > 0)[:, None]
    open_KM &= np.sum(open_KM, axis=0) > 1
    if not np.any(open_KM):
        return -1, -1
    # Where numbers are so far apart that a bundle has none, branching elsewhere is as good.
    share_KM, strain_K = (np.nan_to_num(x, posinf=1e300) for x in bundles(race, prices, delay_s))
    score_KM = np.where(open_KM, np.minimum(share_KM, 1 - share_KM) * strain_K[:, None], 0.0)
    if np.max(score_KM) <= 1e-12:
        wanted_M = np.where(np.any(open_KM, axis=0), np.sum(share_KM, axis=0), -1.0)
        score_KM = np.where(open_KM & (np.arange(len(wanted_M)) == np.argmax(wanted_M)), 1.0 + share_KM, 0.0)
    strongest = np.argmax(np.where(score_KM >= np.max(score_KM) * (1 - 1e-6), race.log_KM, -np.inf))
    k, i = np.unravel_index(strongest, score_KM.shape)
    return int(k), int(i)
