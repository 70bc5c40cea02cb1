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
_PROGRESS, _PATIENCE = 0.1, 5  # A trial is given up after so many iterations that did not close this share of it.
_SPLITS = 3  # How often a client's count is moved in one evaluation.
_NOTHING = -1e9  # An excess that any evaluation improves on.
_MUCH = 4.0  # A bundle that costs more than 1 proves infeasibility alone; no need to know how much more.


class Prices(NamedTuple):
    """Weights of the M subchannels and, last, of the total power; per client the count n at which its sets are split.

    level_K2 and dearer_K2 (water level in W, and (mu + alpha) / mu) of both sides are where the next search starts.
    """

    weight_M1: Array
    count_K: IntArray
    level_K2: Array
    dearer_K2: Array


class Lines(NamedTuple):
    """What one evaluation proves at every delay: per client and side (at most n subchannels, more) a line in the rate.

    The sides' bundles cost at least value_K2 + rate_price_K2 * (rate - rate_K); rounding hides at most 1e-13 of
    those costs, of rate_price_K2 * rate and of unit_K2.
    """

    value_K2: Array
    rate_price_K2: Array
    unit_K2: Array
    rate_K: Array


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
def cheapest(
    race: Race, prices: Prices, k: int, delay: float, rooms: tuple[Room, Room], lines: Lines
) -> tuple[Bundle, int]:
    """Cheapest bundle of client k at a delay and its side (0 for at most n subchannels); fills the client's lines."""
    M = race.log_KM.shape[1]
    weight_M, watt_price = prices.weight_M1[:M], float(prices.weight_M1[M]) / race.total_w
    rate, side = race.need_K[k] / (delay - race.ready_K[k]), -1
    chosen = Bundle(np.inf, 0.0, 0.0, 0, 0, 0.0, 0.0)
    lines.rate_K[k] = rate
    for _ in range(_SPLITS):
        n, side = int(prices.count_K[k]), -1
        lines.value_K2[k, 0], lines.rate_price_K2[k, 0] = np.inf, 0.0
        for more in range(1, -1, -1):
            if n + more == 0:
                continue
            bundle, dearer = best_prices(
                race.log_KM[k], race.inverse_KM[k], weight_M, rate, watt_price, float(race.cap_w_K[k]),
                prices.level_K2[k, more], prices.dearer_K2[k, more], n + more, more == 1, 1e-5 / len(race.need_K),
                rooms[more],
            )  # fmt: skip
            prices.level_K2[k, more], prices.dearer_K2[k, more] = bundle.level, dearer
            rate_price = bundle.level * watt_price * dearer * _LOG_2
            lines.value_K2[k, more], lines.rate_price_K2[k, more] = bundle.value, rate_price
            lines.unit_K2[k, more] = rate_price * 100.0 * (n + 1) + watt_price * dearer * race.cap_w_K[k]
            if side < 0 or bundle.value < chosen.value:
                chosen, side = bundle, more
        if (side == 0 or chosen.size <= n + 1 + 1e-9) and (side == 1 or chosen.size >= n - 1e-9):
            break
        # The better side's sets would rather be larger or smaller than they may: the split belongs elsewhere.
        prices.count_K[k] = int(chosen.size)
    return chosen, side


@part
def add_up(race: Race, prices: Prices, delay: float, rooms: tuple[Room, Room], lines: Lines, use_M1: Array) -> float:
    """What the cheapest bundles cost above 1 at a delay, less a slack for rounding; also the lines that prove it.

    `use_M1` receives the bundles' use of each subchannel and of the total power (W): the excess's supergradient.
    """
    for i in range(len(use_M1)):
        use_M1[i] = 0.0
    for k in range(len(race.need_K)):
        if race.need_K[k] > 0.0:
            bundle, side = cheapest(race, prices, k, delay, rooms, lines)
            tally(bundle, rooms[side], use_M1)
    return excess_at(race, lines, delay)


@part
def excess_at(race: Race, lines: Lines, delay: float) -> float:
    """What the lines prove that the cheapest bundles cost above 1 at a delay, less a slack for rounding."""
    total, magnitude = -1.0, 1.0
    for k in range(len(race.need_K)):
        if race.need_K[k] > 0.0:
            rate = race.need_K[k] / max(delay - race.ready_K[k], 1e-300)
            least, hidden = np.inf, 0.0
            for side in range(2):
                rate_price = lines.rate_price_K2[k, side]
                value = lines.value_K2[k, side] + rate_price * (rate - lines.rate_K[k])
                if np.isnan(value):
                    return -np.inf
                if value < least:
                    least, hidden = value, rate_price * rate + lines.unit_K2[k, side] + abs(value)
            total += least
            magnitude += hidden
    return total - 1e-13 * magnitude


@part
def proved_until(race: Race, lines: Lines, low: float, high: float) -> float:
    """Largest delay up to `high` that the lines prove impossible; `low`, proved before, where none is above it."""
    if excess_at(race, lines, high) > 0.0:
        return high
    width = high - low
    while high - low > 1e-6 * width:
        middle = 0.5 * (low + high)
        if middle <= low or middle >= high:
            break
        if excess_at(race, lines, middle) > 0.0:
            low = middle
        else:
            high = middle
    return low


@kernel
def excess(race: Race, prices: Prices, delay: float) -> tuple[float, Array]:
    """What the cheapest bundles cost above 1 at a delay (if positive, none meets it), and their use."""
    K, M = race.log_KM.shape
    use_M1, rooms = np.zeros(M + 1), (new_room(M), new_room(M))
    over = add_up(race, prices, delay, rooms, new_lines(K), use_M1)
    return over, use_M1


@kernel
def provable_delay(race: Race, prices: Prices, low: float, goal: float) -> float:
    """Largest delay up to `goal` that the prices prove impossible; `low`, proved before, where none is above it."""
    K, M = race.log_KM.shape
    use_M1, rooms, lines = np.zeros(M + 1), (new_room(M), new_room(M)), new_lines(K)
    trial = goal
    for _ in range(12):
        add_up(race, prices, trial, rooms, lines, use_M1)
        proved = proved_until(race, lines, low, goal)
        if proved >= goal or low < proved <= low + 1e-3 * (goal - low):
            return proved
        # Lines drawn where they prove most; halfway down where they prove nothing yet.
        trial = proved if proved > low else 0.5 * (low + trial)
        low = proved
    return low


@kernel
def bundles(race: Race, prices: Prices, delay: float) -> tuple[Array, Array]:
    """Share of each subchannel in each client's cheapest bundle at a delay, [K, M], and the clients' strain, [K].

    A client is strained if its bundle costs much and its own cap makes power much dearer to it than the total does.
    """
    K, M = race.log_KM.shape
    share_KM, strain_K, use_M1, rooms = np.zeros((K, M)), np.zeros(K), np.zeros(M + 1), (new_room(M), new_room(M))
    lines = new_lines(K)
    for k in range(K):
        if race.need_K[k] > 0.0:
            for i in range(M + 1):
                use_M1[i] = 0.0
            bundle, side = cheapest(race, prices, k, delay, rooms, lines)
            tally(bundle, rooms[side], use_M1)
            strain_K[k] = min(bundle.value, 1.0) * prices.dearer_K2[k, side]
            for i in range(M):
                share_KM[k, i] = use_M1[i]
    return share_KM, strain_K


@kernel
def raise_bound(
    race: Race, prices: Prices, low: float, goal: float, reach: float, tolerance: float, iterations: int
) -> tuple[float, float]:
    """Raise a proved lower bound `low` on the delay towards `goal` by moving the prices.

    Each iteration prices the bundles at a trial delay `reach` above the bound, raises the bound as far as their lines
    prove, and moves the prices along the averaged supergradient by Polyak's step towards a proof of the trial. Where
    that stalls the reach is halved. Ends at the goal or at a reach of `tolerance`. Returns the bound and the reach (s);
    `prices` keeps what came closest at the last trial.
    """
    K, M = race.log_KM.shape
    weight_M1, use_M1, step_M1 = prices.weight_M1, np.zeros(M + 1), np.zeros(M + 1)
    best_M1, rooms, lines = weight_M1.copy(), (new_room(M), new_room(M)), new_lines(K)
    reach, best, stalled = min(reach, goal - low), _NOTHING, 0
    trial = next_trial(low, reach, goal)
    for _ in range(iterations):
        over = add_up(race, prices, trial, rooms, lines, use_M1)
        low = proved_until(race, lines, low, goal)
        if low >= goal:
            return low, reach
        if low >= trial:
            trial, best, stalled = next_trial(low, reach, goal), _NOTHING, 0
            copy_floats(weight_M1, best_M1)
            continue
        stalled = 0 if over > best + _PROGRESS * abs(best) else stalled + 1
        if over > best:
            best = over
            copy_floats(weight_M1, best_M1)
        if stalled >= _PATIENCE:
            reach = 0.5 * min(reach, trial - low)
            if reach <= tolerance:
                break
            trial, best, stalled = next_trial(low, reach, goal), _NOTHING, 0
            copy_floats(best_M1, weight_M1)
            for i in range(M + 1):
                step_M1[i] = 0.0
            continue
        for i in range(M + 1):
            violation = (use_M1[i] if i < M else use_M1[i] / race.total_w) - 1.0
            step_M1[i] = 0.5 * (violation + step_M1[i])
        follow(weight_M1, step_M1, -over)
    copy_floats(best_M1, weight_M1)
    return low, reach


@part
def next_trial(low: float, reach: float, goal: float) -> float:
    """Delay to try next: `reach` above the bound, but at most four times it, and not above the goal."""
    return min(low + min(reach, 3.0 * low), goal)


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
def new_lines(K: int) -> Lines:
    """Lines that prove nothing."""
    return Lines(np.zeros((K, 2)), np.zeros((K, 2)), np.zeros((K, 2)), np.zeros(K))


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
