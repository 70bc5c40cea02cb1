"""Close the last gap of a small or nearly solved race: branch on who owns a subchannel, bound with prices.

In one branch a client owns the subchannel and nobody else can hear it, in the other that client cannot hear it. Every
plan belongs to one of both, so that the least bound over the open branches holds for all plans.
"""

from __future__ import annotations

import heapq
from dataclasses import replace

import numpy as np

from wavetune.allocation.bounds import most_divided
from wavetune.allocation.dual_bound import raise_bound
from wavetune.allocation.prices import Prices
from wavetune.allocation.standing import Clock, Standing, copied, forgiving
from wavetune.allocation.water_filling import NO_GAIN_LOG2, Race, owners_delay

_ITERATIONS = 40


def branch(race: Race, standing: Standing, gap_s: float, nodes: int, clock: Clock) -> Standing:
    """Raise the bound until within `gap_s` of the best known delay, or `nodes` branches are spent."""
    if standing.prices is None or standing.gap_s <= gap_s:
        return standing
    open_nodes: list[tuple[float, int, Race, Prices]] = [(standing.bound_s, 0, forgiving(race), standing.prices)]
    closed_s, serial = np.inf, 0
    for _ in range(nodes):
        bound_s, _, node, prices = open_nodes[0]
        goal_s = standing.delay_s - 0.5 * gap_s
        if min(bound_s, closed_s) >= standing.delay_s - gap_s or clock.expired:
            break
        heapq.heappop(open_nodes)
        children = _children(node, prices, bound_s + 0.1 * (goal_s - bound_s))
        if not children:
            owner_M = np.where(np.any(node.log_KM > NO_GAIN_LOG2, axis=0), np.argmax(node.log_KM, axis=0), -1)
            closed_s = min(closed_s, owners_delay(node, owner_M) * (1 - 1e-9))
            standing = min(
                standing, replace(standing, owner_M=owner_M, delay_s=owners_delay(race, owner_M)), key=_delay
            )
        for child in children:
            serial += 1
            raised_s, _ = raise_bound(*child, bound_s, goal_s, np.inf, 0.25 * gap_s, _ITERATIONS)
            heapq.heappush(open_nodes, (raised_s, serial, *child))
        if not open_nodes:
            return replace(standing, bound_s=min(closed_s, standing.delay_s))
    low_s = min(open_nodes[0][0], closed_s, standing.delay_s)
    return replace(standing, bound_s=max(standing.bound_s, low_s))


def _delay(standing: Standing) -> float:
    return standing.delay_s


def _children(race: Race, prices: Prices, delay_s: float) -> list[tuple[Race, Prices]]:
    """Both branches, on what is most open at a delay; none where nothing is."""
    k, i = most_divided(race, prices, delay_s)
    if k < 0:
        return []
    given, denied = race.log_KM.copy(), race.log_KM.copy()
    given[np.arange(len(given)) != k, i] = NO_GAIN_LOG2
    denied[k, i] = NO_GAIN_LOG2
    free = copied(prices)
    free.weight_M1[i] = 0.0  # Nobody else can hear it, so that it has no price.
    free.weight_M1[:] /= np.sum(free.weight_M1)
    return [(race._replace(log_KM=given), free), (race._replace(log_KM=denied), copied(prices))]
