"""Compiled water-filling: least power for a rate, and the least common delay of all clients.

Quantities per subchannel i of client k: h = signal-to-noise ratio per watt, log = log2 h, inverse = 1/h. Rates are in
bit/s per hertz of a subchannel, of which one carries at most a limit: where the strongest would carry more, they are
full, and the rest is water-filling over the others. A client with more time needs a lower rate, and the least power
falls faster than the time grows (P(R) is convex with P(0) = 0), so that whoever waits for the last client spends least
by sending all the while. Everything here is compiled on first use and cached, so import it where it is needed.
Shape suffixes: K clients, M subchannels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from wavetune.allocation.gains import NO_GAIN_LOG2
from wavetune.allocation.kernel_cache import compiled
from wavetune.allocation.problem import IntArray
from wavetune.units import Array

Function = TypeVar("Function", bound=Callable[..., object])


def kernel(function: Function) -> Function:
    """Machine code of a numeric function that Python calls; made at its first call and kept in the cache."""
    return cast(Function, compiled(function))


def part(function: Function) -> Function:
    """Machine code of a function that only kernels call: quicker to compile, as nothing wraps it for Python."""
    return cast(Function, compiled(function, no_cpython_wrapper=True, no_cfunc_wrapper=True))


def inlined(function: Function) -> Function:
    """A part that is copied into what calls it: for a short one that takes many tables, which are slow to hand over."""
    return cast(Function, compiled(function, no_cpython_wrapper=True, no_cfunc_wrapper=True, inline="always"))


HUGE_W = 1e200
_MAX_LOG2 = 600.0
_LOW = (
    1e-6  # Rate (bit/s/Hz) and ratio below which the strongest subchannel alone is as good as all, to that precision.
)
_LEAST_SHARE = 1e-30  # Of the power that may be had, spent by all who send: less could underflow.


_NO_ASKS_KM, _NO_ASKS_K = np.zeros((0, 0)), np.zeros(0)


class Steps(NamedTuple):
    """Rungs of a rate that grows in steps, 0 first: ratios, rates (bit/s/Hz), and which are on the upper hull."""

    snr_I: Array = np.zeros(0)
    rate_I: Array = np.zeros(0)
    hull_I: IntArray = np.zeros(0, np.int64)


NO_STEPS = Steps()


class Vital(NamedTuple):
    """Each client's strongest subchannels, [K, J], and what it carries at most without the first 0 to J, [K, J + 1]."""

    strongest_KJ: IntArray = np.zeros((0, 0), np.int64)
    without_KJ: Array = np.zeros((0, 0))


NO_VITAL = Vital()


class Ranking(NamedTuple):
    """Each client's J strongest subchannels from the strongest on, or none, with their log2 h and 1/h, [K, J]."""

    order_KJ: NDArray[np.uint32] = np.zeros((1, 0), np.uint32)
    log_KJ: Array = np.zeros((1, 0))
    inverse_KJ: Array = np.zeros((1, 0))


NO_RANKING = Ranking()


class BandProblem(NamedTuple):
    """One band: clients start at ready_K (s) and send need_K (bit/Hz); cap_w_K and total_w limit their power (W).

    `limit` is the most that a subchannel carries (bit/s/Hz). Where the way back is planned too, what a client owns has
    to carry `ask_K` in `back_KM`, of any unit; else both are empty. Where rates grow in `steps`, they are at most what
    the other fields say. `vital` and `vital_back` are of the rates there and of those back, for bounds alone, and so is
    `ranking`, where there are many subchannels.
    """

    log_KM: Array
    inverse_KM: Array
    ready_K: Array
    need_K: Array
    cap_w_K: Array
    total_w: float
    limit: float = np.inf
    back_KM: Array = _NO_ASKS_KM
    ask_K: Array = _NO_ASKS_K
    steps: Steps = NO_STEPS
    vital: Vital = NO_VITAL
    vital_back: Vital = NO_VITAL
    ranking: Ranking = NO_RANKING


@part
def least_power(
    log_M: Array, inverse_M: Array, owned: IntArray, count: int, rate: float, limit: float
) -> tuple[float, float]:
    """Least power (W) for `rate` over the first `count` of `owned` (strongest first), and its water level (W).

    Where all of them together do not carry the rate, the power is at least HUGE_W and grows with what is missing.
    """
    if rate <= 0.0:
        return 0.0, 0.0
    if rate < _LOW and count > 0:
        power_w = float(np.expm1(rate * np.log(2.0)) * inverse_M[owned[0]])
        return (power_w, power_w + float(inverse_M[owned[0]])) if log_M[owned[0]] > NO_GAIN_LOG2 else (HUGE_W, HUGE_W)
    sum_log, sum_inverse, active = 0.0, 0.0, 0
    for j in range(count):
        log = float(log_M[owned[j]])
        if rate + j * log - sum_log <= 0.0:
            break
        sum_log += log
        sum_inverse += float(inverse_M[owned[j]])
        active += 1
    if limit < np.inf and (active == 0 or (rate - sum_log) / active + log_M[owned[0]] > limit):
        return _limited_power(log_M, inverse_M, owned, count, rate, limit)
    if active == 0:
        return HUGE_W, HUGE_W
    log_level = (rate - sum_log) / active
    if log_level > _MAX_LOG2:
        return HUGE_W, HUGE_W
    level = 2.0**log_level
    return max(active * level - sum_inverse, 0.0), level


@part
def _heard(log_M: Array, owned: IntArray, count: int) -> int:
    """How many of a client's subchannels, strongest first, it is heard on."""
    while count > 0 and log_M[owned[count - 1]] < -1e29:
        count -= 1
    return count


@part
def _limited_power(
    log_M: Array, inverse_M: Array, owned: IntArray, count: int, rate: float, limit: float
) -> tuple[float, float]:
    """`least_power` where the strongest subchannels are full."""
    count = _heard(log_M, owned, count)
    missing = rate - count * limit
    if missing > 1e-12 * rate:
        # A level at which a further subchannel is worth all that it can add.
        return HUGE_W * (1.0 + min(missing, 1e6)), HUGE_W * (1.0 + 1.0 / limit) / np.log(2.0)
    full, active, sum_log, sum_inverse, full_inverse, log_level = 0, 0, 0.0, 0.0, 0.0, 0.0
    while True:
        while active < count and (active == full or log_level + log_M[owned[active]] > 0.0):
            sum_log += float(log_M[owned[active]])
            sum_inverse += float(inverse_M[owned[active]])
            active += 1
            log_level = (rate - full * limit - sum_log) / (active - full)
        if active == full or log_level + log_M[owned[full]] <= limit:
            break
        sum_log -= float(log_M[owned[full]])
        sum_inverse -= float(inverse_M[owned[full]])
        full_inverse += float(inverse_M[owned[full]])
        full += 1
        if active > full:
            log_level = (rate - full * limit - sum_log) / (active - full)
    if active == full:
        log_level = limit - float(log_M[owned[count - 1]])
    if log_level > _MAX_LOG2:
        return HUGE_W, HUGE_W
    level = 2.0**log_level
    power_w = np.expm1(limit * np.log(2.0)) * full_inverse + max((active - full) * level - sum_inverse, 0.0)
    return power_w, level


@part
def most_rate(log_M: Array, inverse_M: Array, owned: IntArray, count: int, power_w: float, limit: float) -> float:
    """Largest rate that `power_w` buys over the first `count` of `owned` (strongest first)."""
    if count > 0 and power_w < _LOW * inverse_M[owned[0]]:
        return float(np.log1p(power_w / inverse_M[owned[0]]) / np.log(2.0))
    sum_log, level_sum, active, level = 0.0, power_w, 0, 0.0
    for j in range(count):
        inverse = float(inverse_M[owned[j]])
        if log_M[owned[j]] < -1e29 or (j > 0 and level <= inverse):
            break
        sum_log += float(log_M[owned[j]])
        level_sum += inverse
        active += 1
        level = level_sum / active
    if active > 0 and np.log2(level) + log_M[owned[0]] > limit:
        return _limited_rate(log_M, inverse_M, owned, count, power_w, limit)
    return active * float(np.log2(level)) + sum_log if active > 0 else 0.0


@part
def _limited_rate(log_M: Array, inverse_M: Array, owned: IntArray, count: int, power_w: float, limit: float) -> float:
    """`most_rate` where the strongest subchannels are full."""
    count, full_snr = _heard(log_M, owned, count), np.expm1(limit * np.log(2.0))
    full, active, sum_log, level_sum, level = 0, 0, 0.0, power_w, 0.0
    while True:
        while active < count and (active == full or level > inverse_M[owned[active]]):
            sum_log += float(log_M[owned[active]])
            level_sum += float(inverse_M[owned[active]])
            active += 1
            level = level_sum / (active - full)
        if active == full:
            return full * limit
        if np.log2(level) + log_M[owned[full]] <= limit:
            return full * limit + (active - full) * float(np.log2(level)) + sum_log
        sum_log -= float(log_M[owned[full]])
        level_sum -= (1.0 + full_snr) * float(inverse_M[owned[full]])
        full += 1
        if active > full:
            level = level_sum / (active - full)


@part
def owned_lists(log_KM: Array, owner_M: IntArray) -> tuple[IntArray, IntArray]:
    """Subchannels of each client, strongest first: [K, most of any client] padded, and how many each owns."""
    K, M = log_KM.shape
    count_K = np.zeros(K, np.int64)
    for i in range(M):
        if owner_M[i] >= 0:
            count_K[owner_M[i]] += 1
    most = 1
    for k in range(K):
        most = max(most, int(count_K[k]))
        count_K[k] = 0
    owned_KM = np.zeros((K, most), np.int64)
    for i in range(M):
        k = owner_M[i]
        if k >= 0:
            j = count_K[k]
            while j > 0 and log_KM[k, owned_KM[k, j - 1]] < log_KM[k, i]:
                owned_KM[k, j] = owned_KM[k, j - 1]
                j -= 1
            owned_KM[k, j] = i
            count_K[k] += 1
    return owned_KM, count_K


@part
def least_delay(problem: BandProblem, owned_KM: IntArray, count_K: IntArray) -> tuple[float, Array]:
    """Least delay every sending client can meet, and their rates at it; infinite where one cannot send."""
    log_KM, inverse_KM, ready_K, need_K, cap_w_K, total_w, limit = problem[:7]
    K = len(need_K)
    rate_K = np.zeros(K)
    delay = -np.inf
    for k in range(K):
        if need_K[k] > 0.0:
            cap_w = min(cap_w_K[k], total_w)
            best = most_rate(log_KM[k], inverse_KM[k], owned_KM[k], count_K[k], cap_w, limit) if cap_w > 0.0 else 0.0
            if best <= 0.0:
                return np.inf, rate_K
            delay = max(delay, ready_K[k] + need_K[k] / best)
    for _ in range(100):
        power_w, slope = 0.0, 0.0
        for k in range(K):
            if need_K[k] > 0.0:
                left_s = max(delay - ready_K[k], 1e-300)
                rate_K[k] = need_K[k] / left_s
                power_k, level = least_power(log_KM[k], inverse_KM[k], owned_KM[k], count_K[k], rate_K[k], limit)
                power_w += power_k
                slope += level * np.log(2.0) * rate_K[k] / left_s
        # Convex and decreasing in the delay: Newton's steps from the left never overshoot.
        if power_w <= total_w * (1.0 + 1e-13) or slope <= 0.0:
            break
        step = (power_w - total_w) / slope
        if delay + step <= delay:
            break
        delay += step
    return delay, rate_K


@kernel
def optimal_power(problem: BandProblem, owner_M: IntArray) -> tuple[float, Array, Array]:
    """Least delay of all clients for given owners, the powers that reach it, and the clients' water levels (W)."""
    cap_w_K, total_w = problem.cap_w_K, problem.total_w
    owned_KM, count_K = owned_lists(problem.log_KM, owner_M)
    delay, rate_K = least_delay(problem, owned_KM, count_K)
    if delay == np.inf:
        return delay, np.zeros(len(owner_M)), np.ones(len(cap_w_K))
    power_w_M, level_K = powers_at(problem, owned_KM, count_K, rate_K)
    spent_w_K = np.zeros(len(cap_w_K))
    for i in range(len(power_w_M)):
        if owner_M[i] >= 0:
            spent_w_K[owner_M[i]] += power_w_M[i]
    # A cap is exceeded by rounding, or because no delay above the client's start is told apart from it.
    for i in range(len(power_w_M)):
        if owner_M[i] >= 0 and spent_w_K[owner_M[i]] > cap_w_K[owner_M[i]]:
            power_w_M[i] *= cap_w_K[owner_M[i]] / spent_w_K[owner_M[i]]
    return delay, power_w_M * min(1.0, total_w / max(np.sum(power_w_M), 1e-300)), level_K


@part
def powers_at(problem: BandProblem, owned_KM: IntArray, count_K: IntArray, rate_K: Array) -> tuple[Array, Array]:
    """Least powers with which the clients that send have given rates, [M], and their water levels, [K] (W)."""
    K, M = problem.log_KM.shape
    power_w_M, level_K = np.zeros(M), np.ones(K)
    for k in range(K):
        if problem.need_K[k] > 0.0:
            log_M, inverse_M, owned, count = problem.log_KM[k], problem.inverse_KM[k], owned_KM[k], count_K[k]
            power_w, level_K[k] = least_power(log_M, inverse_M, owned, count, rate_K[k], problem.limit)
            if rate_K[k] < _LOW:
                power_w_M[owned[0]] = power_w
            for j in range(count if rate_K[k] >= _LOW else 0):
                above = min(np.log2(level_K[k]) + log_M[owned[j]], problem.limit)
                if above > 0.0:
                    power_w_M[owned[j]] = np.expm1(above * np.log(2.0)) * inverse_M[owned[j]]
            least_w = _LEAST_SHARE * min(problem.cap_w_K[k], problem.total_w) / K
            power_w_M[owned[0]] = max(power_w_M[owned[0]], least_w)
    return power_w_M, level_K


def rates_without(log_KM: Array, inverse_KM: Array, power_w_K: Array, limit: float, most: int) -> Array:
    """Upper bounds, tight to 1e-6, on each client's rate with the whole band to itself, [K, most + 1] (bit/s/Hz).

    Column j is without the j strongest subchannels.

    >>> from wavetune.allocation.gains import log_and_inverse
    >>> log_KM, inverse_KM = log_and_inverse(np.array([[3.0, 1.0]]))
    >>> rates_without(log_KM, inverse_KM, np.array([1.0]), np.inf, 1).round(5).tolist()
    [[2.02975, 1.0]]
    """
    falling_KM = np.ascontiguousarray(np.sort(log_KM, axis=1)[:, ::-1])
    rising_KM = np.sort(np.where(log_KM > NO_GAIN_LOG2, inverse_KM, np.inf), axis=1)
    rising_KM[np.isinf(rising_KM)] = 0.0
    return _rates_without(falling_KM, rising_KM, power_w_K, float(limit), most) * (1.0 + 1e-6)


@kernel
def _rates_without(log_KM: Array, inverse_KM: Array, power_w_K: Array, limit: float, most: int) -> Array:
    K, M = log_KM.shape
    rate_KJ, every = np.zeros((K, most + 1)), np.arange(M, dtype=np.int64)
    for k in range(K):
        for j in range(most + 1):
            rate_KJ[k, j] = most_rate(log_KM[k], inverse_KM[k], every[j:], M - j, power_w_K[k], limit)
    return rate_KJ


@part
def vital_ones(problem: BandProblem, k: int, delay: float, chosen_J: IntArray) -> int:
    """How many subchannels there are, listed in `chosen_J`, one of which client k needs to meet a delay; 0 for unknown.

    Without them it carries too little, whatever else it owns.
    """
    best = 0
    for way in range(2):
        vital = problem.vital if way == 0 else problem.vital_back
        if len(vital.without_KJ) == 0:
            continue
        needed = problem.need_K[k] / (delay - problem.ready_K[k]) if way == 0 else problem.ask_K[k]
        for j in range(1, vital.without_KJ.shape[1]):
            if vital.without_KJ[k, j] < needed * (1.0 - 1e-9):
                if best == 0 or j < best:
                    best = j
                    for n in range(j):
                        chosen_J[n] = vital.strongest_KJ[k, n]
                break
    return best


@kernel
def strongest_rates(problem: BandProblem) -> Array:
    """Each client's largest rate on its strongest n subchannels at its own power, [K, M] (bit/s/Hz), n from 1."""
    K, M = problem.log_KM.shape
    rate_KM = np.zeros((K, M))
    for k in range(K):
        log_M, inverse_M, cap_w = problem.log_KM[k], problem.inverse_KM[k], min(problem.cap_w_K[k], problem.total_w)
        strongest = np.argsort(-log_M)
        for n in range(M if cap_w > 0.0 else 0):
            rate_KM[k, n] = most_rate(log_M, inverse_M, strongest, n + 1, cap_w, problem.limit)
            if n > 0 and rate_KM[k, n] == rate_KM[k, n - 1]:  # weaker ones add nothing either
                rate_KM[k, n:] = rate_KM[k, n]
                break
    return rate_KM


@kernel
def energy_until(problem: BandProblem, owner_M: IntArray, floor_K: Array, done_s: float) -> tuple[Array, Array]:
    """Least energy (J) and power (W) of each client that is done by `done_s` at no less than its floor (bit/s/Hz)."""
    owned_KM, count_K = owned_lists(problem.log_KM, owner_M)
    return _spent_until(problem, owned_KM, count_K, floor_K, done_s)


@part
def _spent_until(
    problem: BandProblem, owned_KM: IntArray, count_K: IntArray, floor_K: Array, done_s: float
) -> tuple[Array, Array]:
    log_KM, inverse_KM, ready_K, need_K, _, _, limit = problem[:7]
    energy_K, power_K = np.zeros(len(need_K)), np.zeros(len(need_K))
    for k in range(len(need_K)):
        if need_K[k] > 0.0:
            rate = max(need_K[k] / max(done_s - ready_K[k], 1e-300), floor_K[k])
            power_K[k], _ = least_power(log_KM[k], inverse_KM[k], owned_KM[k], count_K[k], rate, limit)
            energy_K[k] = power_K[k] * (need_K[k] / rate) if power_K[k] < HUGE_W else np.inf
    return energy_K, power_K


@kernel
def powers_until(problem: BandProblem, owner_M: IntArray, floor_K: Array, done_s: float) -> Array:
    """The powers (W) that `energy_until` adds up, per subchannel."""
    owned_KM, count_K = owned_lists(problem.log_KM, owner_M)
    rate_K = floor_K.copy()
    for k in range(len(rate_K)):
        rate_K[k] = max(problem.need_K[k] / max(done_s - problem.ready_K[k], 1e-300), floor_K[k])
    return powers_at(problem, owned_KM, count_K, rate_K)[0]


@kernel
def earliest_affordable(
    problem: BandProblem, owner_M: IntArray, floor_K: Array, left_j_K: Array, left_j: float, soonest_s: float
) -> float:
    """Earliest time, from `soonest_s` on, by which all clients can be done within the joules left to each and to all.

    Infinite where a billion times as long would not do.
    """
    owned_KM, count_K = owned_lists(problem.log_KM, owner_M)
    low, high, done = soonest_s, np.inf, soonest_s
    while high == np.inf or high - low > 1e-12 * high:
        energy_K, _ = _spent_until(problem, owned_KM, count_K, floor_K, done)
        if np.all(energy_K <= left_j_K) and np.sum(energy_K) <= left_j:
            high = done
        elif high == np.inf and done >= 1e9 * soonest_s:
            return np.inf
        else:
            low = done
        done = 2.0 * done if high == np.inf else 0.5 * (low + high)
    return high
