"""Least power on the rungs of a rate that grows in steps, and the least delay of all clients with it, for given owners.

A subchannel at rung i of a client with ratio h per watt takes snr_i / h watts. A client's least power for a rate is a
knapsack of one rung a subchannel. Steps along the upper hull of the ladder, taken in ascending order of watts per bit,
give the linear relaxation, a lower bound (Hughes-Hartogs); its last step is then replaced by the cheapest that does,
and what is too much is taken back. Where the exact power is wanted, every rung has a reduced cost at the price of the
last step, and only choices whose reduced costs are together below what is left between both are looked at.
Shape suffixes: K clients, M subchannels, I rungs, N subchannels of one client.
"""

from __future__ import annotations

import numpy as np

from wavetune.allocation.problem import IntArray
from wavetune.allocation.water_filling import (
    HUGE_W,
    BandProblem,
    Steps,
    kernel,
    least_delay,
    least_power,
    optimal_power,
    owned_lists,
    part,
)
from wavetune.units import Array
from wavetune.wireless.rate_models import Ladder

_ENOUGH, _LOG_2 = 1 - 1e-12, float(np.log(2.0))
_PRECISION = 1e-7  # of a delay before it falls to that of the rungs taken
_CHOICES = 300  # of rungs for one client's final powers


def steps_of(ladder: Ladder | None, gap: float, effective_hz: float) -> Steps:
    """A ladder as kernels take it: nothing at first, ratios over the gap, rates in bit/s/Hz; none for a smooth rate.

    >>> steps_of(Ladder(np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.2, 2.0])), 1.0, 1.0).hull_I.tolist()
    [0, 1, 3]
    """
    if ladder is None:
        return Steps()
    snr_I, rate_I = (np.concatenate(([0.0], x)) for x in (ladder.snr_I / gap, ladder.rate_bit_per_s_I / effective_hz))
    hull: list[int] = []
    for i in range(len(snr_I)):
        while len(hull) > 1 and (rate_I[i] - rate_I[hull[-1]]) * (snr_I[hull[-1]] - snr_I[hull[-2]]) >= (
            rate_I[hull[-1]] - rate_I[hull[-2]]
        ) * (snr_I[i] - snr_I[hull[-1]]):
            hull.pop()
        hull.append(i)
    while len(hull) > 1 and rate_I[hull[-1]] <= rate_I[hull[-2]]:
        hull.pop()
    return Steps(snr_I, rate_I, np.array(hull, dtype=np.int64))


@part
def last_place(steps: Steps, inverse: float, price: float) -> int:
    """Place on the hull of the last step that costs at most a price (W s Hz/bit), of a subchannel with 1/h."""
    snr_I, rate_I, hull_I = steps
    low, high = 0, len(hull_I) - 1
    while low < high:
        h = (low + high + 1) // 2
        a, b = hull_I[h - 1], hull_I[h]
        if (snr_I[b] - snr_I[a]) * inverse <= price * (rate_I[b] - rate_I[a]):
            low = h
        else:
            high = h - 1
    return low


@part
def rungs_at(steps: Steps, inverse_M: Array, owned: IntArray, count: int, price: float, place_N: IntArray) -> float:
    """Set the last place on the hull of each of `owned` at a price, as `last_place`; the rate of all (bit/s/Hz)."""
    rate = 0.0
    for n in range(count):
        place_N[n] = last_place(steps, float(inverse_M[owned[n]]), price)
        rate += float(steps.rate_I[steps.hull_I[place_N[n]]])
    return rate


@part
def stepped_power(
    steps: Steps, log_M: Array, inverse_M: Array, owned: IntArray, count: int, rate: float, nodes: int,
    rung_N: IntArray,
) -> tuple[float, float, float]:  # fmt: skip
    """Power (W) of rungs, set in `rung_N`, that carry a rate over the first `count` of `owned`; a bound of the least.

    Also the price of a rate (W s Hz/bit) by which the linear relaxation is the bound. Where all of them together do not
    carry the rate, both powers are at least HUGE_W and grow with what is missing, and a further subchannel is worth all
    that it can add. At most `nodes` choices are looked at for the exact least power; below 0 of them the linear
    relaxation is enough, and both powers are its.
    """
    snr_I, rate_I, hull_I = steps
    rung_N[:count] = 0
    if rate <= 0.0:
        return 0.0, 0.0, 0.0
    while count > 0 and log_M[owned[count - 1]] < -1e29:
        count -= 1
    missing = rate - count * float(rate_I[hull_I[-1]])
    if missing > 1e-12 * rate:
        huge_w = HUGE_W * (1.0 + min(missing, 1e6))
        return huge_w, huge_w, HUGE_W * (1.0 + 1.0 / float(rate_I[hull_I[-1]]))
    rate *= _ENOUGH
    _, level_w = least_power(log_M, inverse_M, owned, count, rate, np.inf)
    price = 0.8 * min(level_w, 1e150) * _LOG_2
    carried = rungs_at(steps, inverse_M, owned, count, price, rung_N)
    while carried >= rate:
        price *= 0.6
        if price < 1e-280:
            price = 0.0
        carried = rungs_at(steps, inverse_M, owned, count, price, rung_N)
    power_w = 0.0
    for n in range(count):
        power_w += float(snr_I[hull_I[rung_N[n]]] * inverse_M[owned[n]])
    least_w = power_w
    while True:
        best, best_price = -1, np.inf
        for n in range(count):
            if rung_N[n] < len(hull_I) - 1:
                a, b = hull_I[rung_N[n]], hull_I[rung_N[n] + 1]
                price = float((snr_I[b] - snr_I[a]) / (rate_I[b] - rate_I[a]) * inverse_M[owned[n]])
                if price < best_price:
                    best, best_price = n, price
        if best < 0:
            break
        a, b = hull_I[rung_N[best]], hull_I[rung_N[best] + 1]
        if carried + rate_I[b] - rate_I[a] >= rate:
            least_w = power_w + max(rate - carried, 0.0) * best_price
            break
        rung_N[best] += 1
        carried += float(rate_I[b] - rate_I[a])
        power_w += float((snr_I[b] - snr_I[a]) * inverse_M[owned[best]])
    price = best_price
    if nodes < 0:
        return least_w, least_w, price
    for n in range(count):
        rung_N[n] = hull_I[rung_N[n]]
    power_w = _completed(steps, inverse_M, owned, count, rate, carried, power_w, rung_N)
    if nodes > 0 and best >= 0 and power_w > least_w * (1.0 + 1e-9):
        power_w, least_w = _exact(steps, inverse_M, owned, count, rate, price, power_w, least_w, nodes, rung_N)
    return power_w, min(least_w, power_w), price


@part
def _completed(
    steps: Steps, inverse_M: Array, owned: IntArray, count: int, rate: float, carried: float, power_w: float,
    rung_N: IntArray,
) -> float:  # fmt: skip
    """Power with the cheapest rung that brings the rate, less what can be taken back then; `rung_N` follows."""
    snr_I, rate_I, _ = steps
    best, best_rung, best_w = -1, 0, np.inf
    for n in range(count):
        for i in range(rung_N[n] + 1, len(rate_I)):
            if carried + rate_I[i] - rate_I[rung_N[n]] >= rate:
                more_w = (snr_I[i] - snr_I[rung_N[n]]) * inverse_M[owned[n]]
                if more_w < best_w:
                    best, best_rung, best_w = n, i, more_w
                break
    while best >= 0:
        carried += rate_I[best_rung] - rate_I[rung_N[best]]
        power_w += (snr_I[best_rung] - snr_I[rung_N[best]]) * inverse_M[owned[best]]
        rung_N[best] = best_rung
        best, most_w = -1, 0.0
        for n in range(count):
            i = rung_N[n]
            while i > 0 and carried - rate_I[rung_N[n]] + rate_I[i - 1] >= rate:
                i -= 1
            less_w = (snr_I[rung_N[n]] - snr_I[i]) * inverse_M[owned[n]]
            if less_w > most_w:
                best, best_rung, most_w = n, i, less_w
    return power_w if carried >= rate else HUGE_W


@part
def _exact(
    steps: Steps, inverse_M: Array, owned: IntArray, count: int, rate: float, price: float, power_w: float,
    least_w: float, nodes: int, rung_N: IntArray,
) -> tuple[float, float]:  # fmt: skip
    """The least power by depth-first search over rungs of small reduced cost, and a bound of it."""
    snr_I, rate_I, _ = steps
    num_rungs, gap_w = len(rate_I), power_w - least_w
    cost_NI, most_N = np.empty((count, num_rungs)), np.zeros(count + 1)
    first_N, last_N = np.full(count, num_rungs, np.int64), np.zeros(count, np.int64)
    for n in range(count):
        lowest = np.inf
        for i in range(num_rungs):
            cost_NI[n, i] = snr_I[i] * inverse_M[owned[n]] - price * rate_I[i]
            lowest = min(lowest, cost_NI[n, i])
        for i in range(num_rungs):
            cost_NI[n, i] -= lowest
            if cost_NI[n, i] < gap_w:
                first_N[n], last_N[n] = min(first_N[n], i), i
    for n in range(count - 1, -1, -1):
        most_N[n] = most_N[n + 1] + rate_I[last_N[n]]
    chosen_N, spent_N, carried_N = first_N.copy(), np.zeros(count + 1), np.zeros(count + 1)
    n, seen = 0, 0
    while n >= 0:
        if chosen_N[n] > last_N[n]:
            n -= 1
            if n >= 0:
                chosen_N[n] += 1
            continue
        i = chosen_N[n]
        spent_N[n + 1] = spent_N[n] + cost_NI[n, i]
        carried_N[n + 1] = carried_N[n] + rate_I[i]
        seen += 1
        if seen > nodes:
            return power_w, least_w
        if spent_N[n + 1] >= gap_w or carried_N[n + 1] + most_N[n + 1] < rate:
            chosen_N[n] += 1
        elif n + 1 < count:
            n += 1
            chosen_N[n] = first_N[n]
        else:
            total_w = 0.0
            for m in range(count):
                total_w += float(snr_I[chosen_N[m]] * inverse_M[owned[m]])
            if total_w < power_w:
                power_w, gap_w = total_w, min(gap_w, total_w - least_w)
                for m in range(count):
                    rung_N[m] = chosen_N[m]
            chosen_N[n] += 1
    return power_w, power_w * (1.0 - 1e-12)


@part
def _rungs_until(
    problem: BandProblem, owned_KM: IntArray, count_K: IntArray, delay: float, rung_KM: IntArray
) -> tuple[bool, float]:
    """Whether rungs found for a delay keep every cap, and when the last client is done with them."""
    spent_w, done = 0.0, -np.inf
    for k in range(len(count_K)):
        if problem.need_K[k] > 0.0:
            rate = problem.need_K[k] / max(delay - problem.ready_K[k], 1e-300)
            power_w, _, _ = stepped_power(
                problem.steps, problem.log_KM[k], problem.inverse_KM[k], owned_KM[k], count_K[k], rate, _CHOICES,
                rung_KM[k],
            )  # fmt: skip
            spent_w += power_w
            if power_w > problem.cap_w_K[k] or spent_w > problem.total_w:
                return False, np.inf
            carried = 0.0
            for n in range(count_K[k]):
                carried += problem.steps.rate_I[rung_KM[k, n]]
            done = max(done, problem.ready_K[k] + problem.need_K[k] / carried)
    return True, done


@kernel
def stepped_powers(problem: BandProblem, owner_M: IntArray) -> tuple[float, Array]:
    """Least delay found of all clients for given owners (s), and the powers that reach it; infinite where none does."""
    owned_KM, count_K = owned_lists(problem.log_KM, owner_M)
    power_w_M, rung_KM = np.zeros(len(owner_M)), np.zeros(owned_KM.shape, np.int64)
    low, _ = least_delay(problem, owned_KM, count_K)
    if not np.isfinite(low):
        return low, power_w_M
    start = np.inf
    for k in range(len(count_K)):
        if problem.need_K[k] > 0.0:
            start = min(start, problem.ready_K[k])
    low, high, known = max(low, start), np.inf, rung_KM.copy()
    step = 0.01 * max(low - start, 1e-300)
    trial = low
    for _ in range(400):
        within, done = _rungs_until(problem, owned_KM, count_K, trial, rung_KM)
        if within:
            high = min(done, trial)
            known = rung_KM.copy()
        else:
            low = trial
        if high == np.inf:
            step *= 2.0
            if step > 1e9 * (low + 1.0):
                return np.inf, power_w_M
            trial = low + step
        elif high - low <= _PRECISION * (high - start):
            break
        else:
            trial = 0.5 * (low + high)
    for k in range(len(count_K)):
        if problem.need_K[k] > 0.0:
            for n in range(count_K[k]):
                i = owned_KM[k, n]
                power_w_M[i] = problem.steps.snr_I[known[k, n]] * problem.inverse_KM[k, i]
    return high, power_w_M


def best_powers(problem: BandProblem, owner_M: IntArray) -> tuple[float, Array]:
    """Least delay of all clients for given owners (s), and its powers (W); infinite where a client has no rate."""
    if len(problem.steps.snr_I):
        return stepped_powers(problem, owner_M)
    return optimal_power(problem, owner_M)[:2]


def owners_delay(problem: BandProblem, owner_M: IntArray) -> float:
    """Least delay of all clients for given owners; infinite where one of them cannot send."""
    return best_powers(problem, owner_M)[0]
