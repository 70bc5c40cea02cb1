"""Compiled lower bound on a band's delay: prices on subchannels and power, with whole subchannels counted.

Claim: weights w_i >= 0 on the M subchannels and w >= 0 on the total power, summing to 1, prove that no allocation meets
delay t if the clients' cheapest bundles cost more than 1 together, where client k's costs

    V_k(t) = min over sets S of subchannels with which k meets t within its cap of  sum_{i in S} w_i + mu P_k(S),

mu = w / P is the price of a watt and P_k(S) the least power. (Disjoint sets within the total power would cost at most
1.) V_k is bounded from below by Lagrange multipliers nu >= 0 on k's rate and alpha >= 0 on its cap,

    nu rate - alpha cap + min over S of sum_{i in S} [w_i - max_p (nu log2(1 + p h_i) - (mu + alpha) p)],

separately for the sets of at most n subchannels and for those of more: the smaller of both bounds V_k. Counting whole
subchannels this way closes most of the gap that time-shared subchannels leave. Any nu, alpha, n give a valid bound, so
that approximate maximisation costs tightness, never validity; rounding is covered by an explicit slack.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from wavetune.allocation.compiled import kernel, part
from wavetune.allocation.problem import IntArray
from wavetune.allocation.water_filling import NO_GAIN_LOG2, Race
from wavetune.units import Array

_LOG_2 = np.log(2.0)
_MOST_CHANGE = 0.5
_NEVER = 1e9  # Cost of a subchannel that a client cannot hear.
_LEAST_WEIGHT = 1e-10  # Over the number of weights: what a multiplicative step can still recover from.
_MUCH = 4.0  # A bundle that costs more than 1 proves infeasibility alone; no need to know how much more.


class Prices(NamedTuple):
    """Weights of the M subchannels and, last, of the total power; per client the count n at which its sets are split.

    level_K2 and dearer_K2 (water level in W, and (mu + alpha) / mu) of both sides are where the next search starts.
    """

    weight_M1: Array
    count_K: IntArray
    level_K2: Array
    dearer_K2: Array


class Room(NamedTuple):
    """Scratch space of a client's search."""

    cost_M: Array
    top_cost: Array
    top: IntArray
    chosen: IntArray
    below: IntArray
    above: IntArray


@part
def choose(
    log_M: Array,
    inverse_M: Array,
    weight_M: Array,
    rate_price: float,
    power_price: float,
    n: int,
    more: bool,
    room: Room,
) -> tuple[float, float, float, int]:
    """Cheapest set of at most n >= 1 subchannels (with `more`: of at least n): its cost, rate, power and size."""
    level = rate_price / (power_price * _LOG_2)
    log_level = float(np.log2(level))
    offset = rate_price * log_level - power_price * level
    cost_M, top, top_cost = room.cost_M, room.top, room.top_cost
    for i in range(len(log_M)):
        gain = offset + rate_price * log_M[i] + power_price * inverse_M[i]
        cost_M[i] = weight_M[i] - (gain if log_level + log_M[i] > 0.0 else 0.0) if log_M[i] > NO_GAIN_LOG2 else _NEVER
    filled, size = 0, 0
    limit = np.inf if more else 0.0
    for i in range(len(log_M)):
        cost = cost_M[i]
        if cost >= limit:
            if more and cost < 0.0:
                room.chosen[size] = i
                size += 1
            continue
        if filled == n:
            filled -= 1
            if more and top_cost[filled] < 0.0:
                room.chosen[size] = top[filled]
                size += 1
        j = filled
        while j > 0 and top_cost[j - 1] > cost:
            top_cost[j] = top_cost[j - 1]
            top[j] = top[j - 1]
            j -= 1
        top_cost[j] = cost
        top[j] = i
        filled += 1
        if filled == n:
            limit = top_cost[n - 1]
    for j in range(filled):
        room.chosen[size] = top[j]
        size += 1
    cost, rate, power_w = 0.0, 0.0, 0.0
    for j in range(size):
        i = int(room.chosen[j])
        cost += float(cost_M[i])
        if log_level + log_M[i] > 0.0:
            rate += log_level + float(log_M[i])
            power_w += level - float(inverse_M[i])
    return cost, rate, power_w, size


@part
def between(low: float, low_value: float, low_slope: float, high: float, high_value: float, high_slope: float) -> float:
    """Where the tangents of a concave function at both ends of a bracket meet, kept off the ends."""
    meeting = (high_value - low_value + low_slope * low - high_slope * high) / (low_slope - high_slope)
    margin = 0.02 * (high - low)
    return min(max(meeting, low + margin), high - margin)


@part
def copy(source: IntArray, target: IntArray, size: int) -> None:
    """Copy the first entries."""
    for j in range(size):
        target[j] = source[j]


class Bundle(NamedTuple):
    """Outcome of a client's search over the price of its rate: a mixture of two sets that has the rate wanted."""

    value: float
    level: float
    share_below: float
    num_below: int
    num_above: int
    power_w: float
    size: float


@part
def best_rate_price(
    log_M: Array,
    inverse_M: Array,
    weight_M: Array,
    rate: float,
    power_price: float,
    level: float,
    n: int,
    more: bool,
    tolerance: float,
    enough: float,
    room: Room,
) -> Bundle:
    """Maximise over nu: nu rate + cheapest set, for a given price of power; a value of `enough` ends the search."""
    best, best_level = -np.inf, level
    low, low_value, low_rate, low_power, num_below = 0.0, 0.0, 0.0, 0.0, -1
    high, high_value, high_rate, high_power, num_above = 0.0, 0.0, 0.0, 0.0, -1
    price = level * power_price * _LOG_2
    for turn in range(40):
        cost, set_rate, power_w, size = choose(log_M, inverse_M, weight_M, price, power_price, n, more, room)
        value = price * rate + cost
        if value > best:
            best, best_level = value, price / (power_price * _LOG_2)
        if set_rate < rate:
            low, low_value, low_rate, low_power, num_below = price, value, set_rate, power_w, size
            copy(room.chosen, room.below, size)
        else:
            high, high_value, high_rate, high_power, num_above = price, value, set_rate, power_w, size
            copy(room.chosen, room.above, size)
        if abs(set_rate - rate) <= 1e-9 * rate or best > enough:
            break
        # The same set would have the rate wanted at this price.
        peak = price * 2.0 ** min(max((rate - set_rate) / max(size, 1), -20.0), 20.0)
        if num_below < 0 or num_above < 0:
            price = peak
            continue
        meeting = between(low, low_value, rate - low_rate, high, high_value, rate - high_rate)
        if high - low <= 1e-9 * high or low_value + (rate - low_rate) * (meeting - low) - best <= tolerance:
            break
        price = 0.5 * (low + high) if turn % 4 == 3 else peak if low < peak < high and turn % 2 == 0 else meeting
    if num_below < 0:
        return Bundle(best, best_level, 0.0, 0, num_above, high_power, float(num_above))
    if num_above < 0:
        return Bundle(best, best_level, 1.0, num_below, 0, low_power, float(num_below))
    share = (high_rate - rate) / (high_rate - low_rate)
    power_w = share * low_power + (1.0 - share) * high_power
    return Bundle(best, best_level, share, num_below, num_above, power_w, share * num_below + (1.0 - share) * num_above)


@part
def best_prices(
    log_M: Array,
    inverse_M: Array,
    weight_M: Array,
    rate: float,
    watt_price: float,
    cap_w: float,
    level: float,
    dearer: float,
    n: int,
    more: bool,
    tolerance: float,
    room: Room,
) -> tuple[Bundle, float]:
    """Maximise over nu and alpha: nu rate - alpha cap + cheapest set; also (mu + alpha) / mu."""
    low, low_value, low_slope = 0.0, 0.0, -1.0
    high, high_value, high_slope = 0.0, 0.0, 1.0
    price, best, best_level, best_dearer = watt_price * max(dearer, 1.0), -np.inf, level, 1.0
    turn = 0
    while True:
        cap_cost = (price - watt_price) * cap_w
        bundle = best_rate_price(
            log_M, inverse_M, weight_M, rate, price, level, n, more, tolerance, _MUCH + cap_cost, room
        )
        level, value, slope = bundle.level, bundle.value - cap_cost, bundle.power_w - cap_w
        if value > best:
            best, best_level, best_dearer = value, level, price / watt_price
        turn += 1
        if best > _MUCH or abs(slope) <= 1e-6 * cap_w or (slope <= 0.0 and price <= watt_price) or turn == 40:
            break
        if slope > 0.0:
            low, low_value, low_slope = price, value, slope
        else:
            high, high_value, high_slope = price, value, slope
        if high_slope > 0.0:
            price *= 2.0 if turn < 3 else 16.0
        elif low_slope < 0.0:
            price = max(watt_price, price * (0.5 if turn < 3 else 1.0 / 16.0))
        else:
            meeting = between(low, low_value, low_slope, high, high_value, high_slope)
            if high - low <= 1e-9 * high or low_value + low_slope * (meeting - low) - best <= tolerance:
                break
            price = 0.5 * (low + high) if turn % 3 == 2 else meeting
    result = Bundle(
        best, best_level, bundle.share_below, bundle.num_below, bundle.num_above, bundle.power_w, bundle.size
    )
    return result, best_dearer


@part
def tally(bundle: Bundle, room: Room, use_M1: Array) -> None:
    """Add a bundle's use of subchannels and power."""
    for j in range(bundle.num_below):
        use_M1[room.below[j]] += bundle.share_below
    for j in range(bundle.num_above):
        use_M1[room.above[j]] += 1.0 - bundle.share_below
    use_M1[-1] += bundle.power_w


@part
def cheapest(race: Race, prices: Prices, k: int, delay: float, rooms: tuple[Room, Room]) -> tuple[Bundle, int, float]:
    """Cheapest bundle of client k at a delay, its side (0 for at most n subchannels) and its price of rate."""
    M = race.log_KM.shape[1]
    weight_M, watt_price = prices.weight_M1[:M], float(prices.weight_M1[M]) / race.total_w
    rate, n, chosen, side = (
        race.need_K[k] / (delay - race.ready_K[k]),
        int(prices.count_K[k]),
        Bundle(np.inf, 0.0, 0.0, 0, 0, 0.0, 0.0),
        -1,
    )
    for more in range(1, -1, -1):
        if n + more == 0:
            continue
        bundle, dearer = best_prices(
            race.log_KM[k], race.inverse_KM[k], weight_M, rate, watt_price, float(race.cap_w_K[k]),
            prices.level_K2[k, more], prices.dearer_K2[k, more], n + more, more == 1, 1e-6 / len(race.need_K),
            rooms[more],
        )  # fmt: skip
        prices.level_K2[k, more], prices.dearer_K2[k, more] = bundle.level, dearer
        if side < 0 or bundle.value < chosen.value:
            chosen, side = bundle, more
    # Where the better side's sets would rather be larger or smaller than they may, the split belongs elsewhere.
    if (side == 1 and chosen.size > n + 1 + 1e-9) or (side == 0 and chosen.size < n - 1e-9):
        prices.count_K[k] = int(chosen.size)
    return chosen, side, chosen.level * watt_price * float(prices.dearer_K2[k, side]) * _LOG_2


@part
def add_up(race: Race, prices: Prices, delay: float, rooms: tuple[Room, Room], use_M1: Array) -> tuple[float, float]:
    """What the cheapest bundles cost above 1 at a delay, less a slack for rounding, and its derivative by the delay.

    `use_M1` receives the bundles' use of each subchannel and of the total power (W): the excess's supergradient.
    """
    M = race.log_KM.shape[1]
    watt_price = float(prices.weight_M1[M]) / race.total_w
    total, slope, magnitude = -1.0, 0.0, 1.0
    for i in range(M + 1):
        use_M1[i] = 0.0
    for k in range(len(race.need_K)):
        if race.need_K[k] <= 0.0:
            continue
        n, left_s = prices.count_K[k], delay - race.ready_K[k]
        bundle, side, rate_price = cheapest(race, prices, k, delay, rooms)
        tally(bundle, rooms[side], use_M1)
        rate = race.need_K[k] / left_s
        total += bundle.value
        slope -= rate_price * rate / left_s
        magnitude += rate_price * (rate + 100.0 * (n + 1)) + abs(bundle.value)
        magnitude += watt_price * prices.dearer_K2[k, side] * race.cap_w_K[k]
    return total - 1e-13 * magnitude, slope


@kernel
def excess(race: Race, prices: Prices, delay: float) -> tuple[float, float, Array]:
    """What the cheapest bundles cost above 1 at a delay (if positive, none meets it), its derivative, and their use."""
    M = race.log_KM.shape[1]
    use_M1, rooms = np.zeros(M + 1), (new_room(M), new_room(M))
    over, slope = add_up(race, prices, delay, rooms, use_M1)
    return over, slope, use_M1


@kernel
def bundles(race: Race, prices: Prices, delay: float) -> tuple[Array, Array]:
    """Share of each subchannel in each client's cheapest bundle at a delay, [K, M], and the clients' strain, [K].

    A client is strained if its bundle costs much and its own cap makes power much dearer to it than the total does.
    """
    K, M = race.log_KM.shape
    share_KM, strain_K, use_M1, rooms = np.zeros((K, M)), np.zeros(K), np.zeros(M + 1), (new_room(M), new_room(M))
    for k in range(K):
        if race.need_K[k] > 0.0:
            for i in range(M + 1):
                use_M1[i] = 0.0
            bundle, side, _ = cheapest(race, prices, k, delay, rooms)
            tally(bundle, rooms[side], use_M1)
            strain_K[k] = min(bundle.value, 1.0) * prices.dearer_K2[k, side]
            for i in range(M):
                share_KM[k, i] = use_M1[i]
    return share_KM, strain_K


@kernel
def raise_bound(
    race: Race, prices: Prices, low: float, goal: float, failed: float, tolerance: float, iterations: int
) -> tuple[float, float]:
    """Raise a proved lower bound `low` on the delay towards `goal` by moving the prices.

    At a trial delay, multiplicative steps along the averaged supergradient aim at an excess a little above the best;
    when they stall, the aim is lowered, and in the end the trial. Stops once the goal is reached or a failed trial lies
    within `tolerance` of the bound. Returns the bound and the least trial that failed, at first `failed` (all in s);
    `prices` keeps what proved the bound or what came closest at the trial after it.
    """
    M = race.log_KM.shape[1]
    weight_M1, use_M1, step_M1 = prices.weight_M1, np.zeros(M + 1), np.zeros(M + 1)
    best_M1, proof_M1, rooms = weight_M1.copy(), weight_M1.copy(), (new_room(M), new_room(M))
    best, lift, stalled = -np.inf, 0.0, 0
    trial = next_trial(low, goal, failed, tolerance)
    for _ in range(iterations):
        over, _ = add_up(race, prices, trial, rooms, use_M1)
        if over > 0.0:
            copy_floats(weight_M1, proof_M1)
            low, best = trial, -np.inf
            if low >= goal or failed - low <= tolerance:
                break
            trial = next_trial(low, goal, failed, tolerance)
            continue
        lift = -0.5 * over if best == -np.inf else lift
        stalled = 0 if over > best + 0.1 * lift else stalled + 1
        if over > best:
            best = over
            copy_floats(weight_M1, best_M1)
        if stalled >= 5:
            lift, stalled = 0.5 * lift, 0
            copy_floats(best_M1, weight_M1)
            for i in range(M + 1):
                step_M1[i] = 0.0
            if lift < -0.05 * best:
                failed, best = trial, -np.inf
                if failed - low <= tolerance:
                    break
                trial = next_trial(low, goal, failed, tolerance)
            continue
        for i in range(M + 1):
            violation = (use_M1[i] if i < M else use_M1[i] / race.total_w) - 1.0
            step_M1[i] = 0.5 * (violation + step_M1[i])
        follow(weight_M1, step_M1, best + lift - over)
    copy_floats(proof_M1 if best == -np.inf else best_M1, weight_M1)
    return low, failed


@part
def next_trial(low: float, goal: float, failed: float, tolerance: float) -> float:
    """Delay to try next between what is proved and what failed or is wanted."""
    high = min(failed, goal)
    if high > 4.0 * low:
        return float(np.sqrt(low * high))
    if failed < goal:
        return 0.5 * (low + failed)
    return goal if goal - low <= 4.0 * tolerance else low + 0.7 * (goal - low)


@part
def follow(weight_M1: Array, step_M1: Array, rise: float) -> None:
    """Change the weights along a direction by Polyak's step, for a rise wanted, and let them sum to 1 again."""
    norm, largest, total = 1e-300, 1e-300, 0.0
    for i in range(len(weight_M1)):
        norm += weight_M1[i] * step_M1[i] ** 2
        largest = max(largest, abs(step_M1[i]))
    length = min(rise / norm, _MOST_CHANGE / largest)
    for i in range(len(weight_M1)):
        weight_M1[i] = max(weight_M1[i] * np.exp(length * step_M1[i]), _LEAST_WEIGHT / len(weight_M1))
        total += weight_M1[i]
    for i in range(len(weight_M1)):
        weight_M1[i] /= total


@part
def copy_floats(source: Array, target: Array) -> None:
    """Copy all entries."""
    for i in range(len(source)):
        target[i] = source[i]


@part
def new_room(M: int) -> Room:
    """Scratch space for M subchannels."""
    return Room(
        np.zeros(M),
        np.zeros(M + 1),
        np.zeros(M + 1, np.int64),
        np.zeros(M, np.int64),
        np.zeros(M, np.int64),
        np.zeros(M, np.int64),
    )
