"""Compiled joint step of powers and shares of the server, for given owners of the subchannels.

Problem: client k starts to send at ready_k, its batch takes work_k seconds of the whole server; find the least T with
powers within the caps and shares that add up to at most 1 such that, with y_k the airtime of its activations,
    ready_k + y_k + work_k / share_k <= T.
For a given T both the least power P_k(need_k / y) and the share work_k / (T - ready_k - y) are convex in y; the least
total power within the shares equates the clients' exchange rates (-dP/dy) / (dshare/dy) = mu, found by bisection.
Shape suffixes: K clients, M subchannels.
"""

from __future__ import annotations

import numpy as np

from wavetune.allocation.problem import IntArray
from wavetune.allocation.water_filling import BandProblem, kernel, least_power, most_rate, owned_lists, part
from wavetune.units import Array

_LOG_2 = float(np.log(2.0))
_STEPS = 24


@part
def exchange_rate(
    problem: BandProblem, owned_KM: IntArray, count_K: IntArray, work: float, k: int, airtime: float, left: float
) -> float:
    """Watts saved by more airtime over share of the server spent on it."""
    rate = problem.need_K[k] / airtime
    _, level = least_power(problem.log_KM[k], problem.inverse_KM[k], owned_KM[k], count_K[k], rate, problem.limit)
    return level * _LOG_2 * rate / airtime * left * left / work


@part
def airtimes(
    problem: BandProblem,
    work_K: Array,
    owned_KM: IntArray,
    count_K: IntArray,
    least_K: Array,
    delay: float,
    mu: float,
    air_K: Array,
) -> float:
    """Each client's airtime at an exchange rate; returns the sum of the shares."""
    total = 0.0
    for k in range(len(work_K)):
        left = delay - problem.ready_K[k]
        air_K[k] = least_K[k]
        if problem.need_K[k] > 0.0:
            if work_K[k] <= 0.0:
                air_K[k] = left
                continue
            low, high = least_K[k], left
            if exchange_rate(problem, owned_KM, count_K, work_K[k], k, low, left - low) > mu:
                for _ in range(_STEPS):
                    middle = 0.5 * (low + high)
                    if exchange_rate(problem, owned_KM, count_K, work_K[k], k, middle, left - middle) > mu:
                        low = middle
                    else:
                        high = middle
                air_K[k] = low
        if work_K[k] > 0.0:
            total += work_K[k] / (left - air_K[k])
    return total


@part
def power_needed(problem: BandProblem, owned_KM: IntArray, count_K: IntArray, air_K: Array) -> float:
    """Least total power for the airtimes (W)."""
    total = 0.0
    for k in range(len(air_K)):
        if problem.need_K[k] > 0.0:
            rate = problem.need_K[k] / air_K[k]
            power_w, _ = least_power(
                problem.log_KM[k], problem.inverse_KM[k], owned_KM[k], count_K[k], rate, problem.limit
            )
            total += power_w
    return total


@part
def meets_delay(
    problem: BandProblem,
    work_K: Array,
    owned_KM: IntArray,
    count_K: IntArray,
    least_K: Array,
    delay: float,
    air_K: Array,
    asks_for_least: bool,
) -> bool:
    """Whether some powers and shares end all pipelines by `delay`.

    If they do and it is asked for, `air_K` receives the airtimes of the least power.
    """
    for k in range(len(work_K)):
        if delay - problem.ready_K[k] < least_K[k] + work_K[k]:
            return False
    low, high = -60.0, 60.0
    if airtimes(problem, work_K, owned_KM, count_K, least_K, delay, 10.0**high, air_K) > 1.0:
        return False
    for _ in range(40):
        middle = 0.5 * (low + high)
        too_long = airtimes(problem, work_K, owned_KM, count_K, least_K, delay, 10.0**middle, air_K) > 1.0
        if not asks_for_least:
            is_enough = power_needed(problem, owned_KM, count_K, air_K) <= problem.total_w
            if is_enough != too_long:  # the least power is below this one, or above
                return is_enough
        if too_long:
            low = middle
        else:
            high = middle
    airtimes(problem, work_K, owned_KM, count_K, least_K, delay, 10.0**high, air_K)
    return power_needed(problem, owned_KM, count_K, air_K) <= problem.total_w


@kernel
def can_end(problem: BandProblem, work_K: Array, owner_M: IntArray, delay: float) -> bool:
    """Whether for given owners some powers and shares end all pipelines by `delay`."""
    K = len(work_K)
    owned_KM, count_K = owned_lists(problem.log_KM, owner_M)
    least_K = np.zeros(K)
    for k in range(K):
        least_K[k] = least_airtime(problem, owned_KM, count_K, k)
    return meets_delay(problem, work_K, owned_KM, count_K, least_K, delay, np.zeros(K), False)


@part
def least_airtime(problem: BandProblem, owned_KM: IntArray, count_K: IntArray, k: int) -> float:
    """Airtime at client k's full power; infinite where it cannot send."""
    if problem.need_K[k] <= 0.0:
        return 0.0
    cap_w = min(problem.cap_w_K[k], problem.total_w)
    if not cap_w > 0.0:
        return np.inf
    rate = most_rate(problem.log_KM[k], problem.inverse_KM[k], owned_KM[k], count_K[k], cap_w, problem.limit)
    return problem.need_K[k] / rate if rate > 0.0 else np.inf


@kernel
def balance(problem: BandProblem, work_K: Array, owner_M: IntArray, known: float) -> Array:
    """Airtimes of the least common end of all pipelines for given owners, [K] (s), given an end that is `known`.

    Infinite where some client cannot send.
    """
    K = len(work_K)
    owned_KM, count_K = owned_lists(problem.log_KM, owner_M)
    least_K, air_K = np.zeros(K), np.zeros(K)
    low = 0.0
    for k in range(K):
        least_K[k] = least_airtime(problem, owned_KM, count_K, k)
        if least_K[k] == np.inf:
            return np.full(K, np.inf)
        low = max(low, problem.ready_K[k] + least_K[k] + work_K[k])
    high = known
    for _ in range(60):
        if meets_delay(problem, work_K, owned_KM, count_K, least_K, high, air_K, False):
            break
        low, high = max(low, high), 1.5 * high
    for _ in range(40):
        if high - low <= 1e-7 * high:
            break
        middle = 0.5 * (low + high)
        if meets_delay(problem, work_K, owned_KM, count_K, least_K, middle, air_K, False):
            high = middle
        else:
            low = middle
    meets_delay(problem, work_K, owned_KM, count_K, least_K, high, air_K, True)
    return air_K
