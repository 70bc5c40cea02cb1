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


HUGE_W = 1e200
_LEAST_SNR_PER_W = 1e-250  # Below, the inverse overflows.
_MAX_LOG2 = 600.0
NO_GAIN_LOG2 = -1e30
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


class BandProblem(NamedTuple):
    """One band: clients start at ready_K (s) and send need_K (bit/Hz); cap_w_K and total_w limit their power (W).

    `limit` is the most that a subchannel carries (bit/s/Hz). Where the way back is planned too, what a client owns has
    to carry `ask_K` in `back_KM`, of any unit; else both are empty. Where rates grow in `steps`, they are at most what
    the other fields say. `vital` and `vital_back` are of the rates there and of those back, for bounds alone.
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


def log_and_inverse(snr_per_w_KM: Array) -> tuple[Array, Array]:
    """Tables of log2 h and 1/h; a subchannel without gain gets values that make every rate on it unaffordable."""
    heard = snr_per_w_KM > _LEAST_SNR_PER_W
    safe = np.where(heard, snr_per_w_KM, 1.0)
    return np.where(heard, np.log2(safe), NO_GAIN_LOG2), np.where(heard, 1.0 / safe, 0.0)


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
    log_KM, inverse_KM, _, need_K, cap_w_K, total_w, limit = problem[:7]
    owned_KM, count_K = owned_lists(log_KM, owner_M)
    delay, rate_K = least_delay(problem, owned_KM, count_K)
    power_w_M, level_K = np.zeros(len(owner_M)), np.ones(len(need_K))
    if delay == np.inf:
        return delay, power_w_M, level_K
    for k in range(len(need_K)):
        if need_K[k] > 0.0:
            power_w, level = least_power(log_KM[k], inverse_KM[k], owned_KM[k], count_K[k], rate_K[k], limit)
            level_K[k] = level
            least_w = _LEAST_SHARE * min(cap_w_K[k], total_w) / len(need_K)
            fill_powers(
                log_KM[k], inverse_KM[k], owned_KM[k], count_K[k], rate_K[k], power_w, level, limit, least_w, power_w_M
            )
            spent_w = 0.0
            for j in range(count_K[k]):
                spent_w += power_w_M[owned_KM[k, j]]
            if spent_w > cap_w_K[k]:  # By rounding, or because no delay above the client's start is told apart from it.
                for j in range(count_K[k]):
                    power_w_M[owned_KM[k, j]] *= cap_w_K[k] / spent_w
    spent_w = 0.0
    for i in range(len(power_w_M)):
        spent_w += power_w_M[i]
    if spent_w > total_w:
        for i in range(len(power_w_M)):
            power_w_M[i] *= total_w / spent_w
    return delay, power_w_M, level_K


@part
def fill_powers(
    log_M: Array,
    inverse_M: Array,
    owned: IntArray,
    count: int,
    rate: float,
    power_w: float,
    level_w: float,
    limit: float,
    least_w: float,
    power_w_M: Array,
) -> None:
    """Set the powers that least_power adds up, that of the strongest subchannel to no less than `least_w`."""
    if rate < _LOW:
        power_w_M[owned[0]] = max(power_w, least_w)
        return
    for j in range(count):
        i = int(owned[j])
        above = min(np.log2(level_w) + log_M[i], limit)
        if above > 0.0:
            power_w_M[i] = np.expm1(above * np.log(2.0)) * inverse_M[i]
    power_w_M[owned[0]] = max(power_w_M[owned[0]], least_w)


def lone_rates(snr_per_w_KM: Array, power_w_K: Array, limit: float = np.inf) -> Array:
    """Upper bound on each client's rate (bit/s/Hz) with the whole band to itself; tight to 1e-6 without a limit.

    >>> lone_rates(np.array([[3.0, 1e-9]]), np.array([1.0])).round(5).tolist()
    [2.0]
    """
    return rates_without(snr_per_w_KM, power_w_K, limit, 0)[:, 0]


def rates_without(snr_per_w_KM: Array, power_w_K: Array, limit: float, most: int) -> Array:
    """The same without the 0 to `most` strongest subchannels, [K, most + 1].

    >>> rates_without(np.array([[3.0, 1.0]]), np.array([1.0]), np.inf, 1)[:, 1].round(5).tolist()
    [1.0]
    """
    return _rates_without(-np.sort(-snr_per_w_KM, axis=1), power_w_K, float(limit), most)


@kernel
def _rates_without(best_KM: Array, power_w_K: Array, limit: float, most: int) -> Array:
    K, M = best_KM.shape
    rate_KJ, log_M, inverse_M = np.zeros((K, most + 1)), np.zeros(M), np.zeros(M)
    for k in range(K):
        heard = 0
        while heard < M and best_KM[k, heard] > _LEAST_SNR_PER_W:
            log_M[heard], inverse_M[heard] = np.log2(best_KM[k, heard]), 1.0 / best_KM[k, heard]
            heard += 1
        for j in range(min(heard, most + 1)):
            count, sum_log, level_sum, level = 0, 0.0, power_w_K[k], np.inf
            while j + count < heard and level > inverse_M[j + count]:
                sum_log += log_M[j + count]
                level_sum += inverse_M[j + count]
                count += 1
                level = level_sum / count
            # Where the ratio is tiny the sums are all rounding, and the strongest subchannel alone is as good as all.
            linear = power_w_K[k] * best_KM[k, j]
            rate = linear / np.log(2.0) if linear < _LOW else count * np.log2(level) + sum_log
            rate_KJ[k, j] = min(rate, (heard - j) * limit) * (1.0 + 1e-6)
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
        cap_w = min(problem.cap_w_K[k], problem.total_w)
        if cap_w > 0.0:
            rates_on_strongest(problem.log_KM[k], problem.inverse_KM[k], cap_w, problem.limit, rate_KM[k])
    return rate_KM


@part
def rates_on_strongest(log_M: Array, inverse_M: Array, power_w: float, limit: float, rate_M: Array) -> None:
    """Set `rate_M[n - 1]` to `most_rate` of the n strongest; each goes on from the one before where none is full."""
    strongest, full_snr = np.argsort(-log_M), np.expm1(limit * np.log(2.0))
    first = int(strongest[0])
    linear = power_w < _LOW * inverse_M[first]
    sum_log, level_sum, active, level, filled_w = 0.0, power_w, 0, 0.0, 0.0
    for n in range(len(log_M)):
        i = int(strongest[n])
        inverse = float(inverse_M[i])
        if active == n and log_M[i] >= -1e29 and (n == 0 or level > inverse):
            sum_log += float(log_M[i])
            level_sum += inverse
            active += 1
            level = level_sum / active
        filled_w += full_snr * inverse if limit < np.inf else np.inf
        if linear or active == 0 or np.log2(level) + log_M[first] <= limit:
            rate_M[n] = active * float(np.log2(level)) + sum_log if active > 0 and not linear else 0.0
            if linear:
                rate_M[n] = float(np.log1p(power_w / inverse_M[first]) / np.log(2.0))
        elif log_M[i] >= -1e29 and filled_w < power_w * (1.0 - 1e-9):
            rate_M[n] = (n + 1) * limit
        else:
            rate_M[n] = _limited_rate(log_M, inverse_M, strongest, n + 1, power_w, limit)
            if n > active and rate_M[n] == rate_M[n - 1]:  # weaker ones add nothing either
                rate_M[n:] = rate_M[n]
                return


@kernel
def energy_until(problem: BandProblem, owner_M: IntArray, floor_K: Array, done_s: float) -> tuple[Array, Array]:
    """Least energy (J) and power (W) of each client that is done by `done_s` at no less than its floor (bit/s/Hz)."""
    log_KM, inverse_KM, ready_K, need_K, _, _, limit = problem[:7]
    K = len(need_K)
    energy_K, power_K = np.zeros(K), np.zeros(K)
    owned_KM, count_K = owned_lists(log_KM, owner_M)
    for k in range(K):
        if need_K[k] > 0.0:
            rate = max(need_K[k] / max(done_s - ready_K[k], 1e-300), floor_K[k])
            power_w, _ = least_power(log_KM[k], inverse_KM[k], owned_KM[k], count_K[k], rate, limit)
            power_K[k] = power_w
            energy_K[k] = power_w * (need_K[k] / rate) if power_w < HUGE_W else np.inf
    return energy_K, power_K


@kernel
def powers_until(problem: BandProblem, owner_M: IntArray, floor_K: Array, done_s: float) -> Array:
    """The powers (W) that `energy_until` adds up, per subchannel."""
    log_KM, inverse_KM, ready_K, need_K, cap_w_K, total_w, limit = problem[:7]
    power_w_M = np.zeros(len(owner_M))
    owned_KM, count_K = owned_lists(log_KM, owner_M)
    for k in range(len(need_K)):
        if need_K[k] > 0.0:
            rate = max(need_K[k] / max(done_s - ready_K[k], 1e-300), floor_K[k])
            power_w, level_w = least_power(log_KM[k], inverse_KM[k], owned_KM[k], count_K[k], rate, limit)
            least_w = _LEAST_SHARE * min(cap_w_K[k], total_w) / len(need_K)
            fill_powers(
                log_KM[k], inverse_KM[k], owned_KM[k], count_K[k], rate, power_w, level_w, limit, least_w, power_w_M
            )
    return power_w_M


@kernel
def earliest_affordable(
    problem: BandProblem, owner_M: IntArray, floor_K: Array, left_j_K: Array, left_j: float, soonest_s: float
) -> float:
    """Earliest time, from `soonest_s` on, by which all clients can be done within the joules left to each and to all.

    Infinite where a billion times as long would not do.
    """
    log_KM, inverse_KM, ready_K, need_K, _, _, limit = problem[:7]
    owned_KM, count_K = owned_lists(log_KM, owner_M)
    low, high, done = soonest_s, soonest_s, soonest_s
    while True:
        energy_j, within = 0.0, True
        for k in range(len(need_K)):
            if need_K[k] > 0.0:
                rate = max(need_K[k] / max(done - ready_K[k], 1e-300), floor_K[k])
                power_w, _ = least_power(log_KM[k], inverse_KM[k], owned_KM[k], count_K[k], rate, limit)
                joules = power_w * (need_K[k] / rate)
                energy_j += joules
                within = within and joules <= left_j_K[k]
        within = within and energy_j <= left_j
        if within and done == soonest_s:
            return done
        if low == high:  # still looking for a time that does
            if within:
                high = done
            elif done >= 1e9 * soonest_s:
                return np.inf
            else:
                low = high = done
        elif within:
            high = done
        else:
            low = done
        if high > low and high - low <= 1e-12 * high:
            return high
        done = 0.5 * (low + high) if high > low else 2.0 * done
