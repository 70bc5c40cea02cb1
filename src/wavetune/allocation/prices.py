"""Compiled: what a client's cheapest subchannels cost at given prices, whole subchannels counted; see `dual_bound`.

Claim: weights w_i >= 0 on the M subchannels and w >= 0 on the total power, summing to 1, prove that no allocation meets
delay t if the clients' cheapest bundles cost more than 1 together, where client k's costs

    V_k(t) = min over sets S of subchannels with which k meets t within its cap of  sum_{i in S} w_i + mu P_k(S),

mu = w / P is the price of a watt and P_k(S) the least power. (Disjoint sets within the total power would cost at most
1.) V_k is bounded from below by Lagrange multipliers nu >= 0 on k's rate and alpha >= 0 on its cap,

    nu rate - alpha cap + min over S of sum_{i in S} [w_i - max_p (nu log2(1 + p h_i) - (mu + alpha) p)],

with p at most what a subchannel's limit takes, or one of the powers of a rate that grows in steps, separately for the
sets of at most n subchannels and for those of more: the smaller of both bounds V_k. Counting whole subchannels this way
closes most of the gap that time-shared subchannels leave. Any nu, alpha, n give a valid bound, so that approximate
maximisation costs tightness, never validity; rounding is covered by an explicit slack.
Shape suffixes: K clients, M subchannels, 2 for sets of at most n subchannels and of more, M1 for the subchannels and
the total power.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wavetune.allocation.gains import NO_GAIN_LOG2
from wavetune.allocation.ladder import last_place
from wavetune.allocation.problem import IntArray
from wavetune.allocation.water_filling import BandProblem, Steps, part
from wavetune.units import Array

LOG_2 = np.log(2.0)
NEVER = 1e9  # Cost of a subchannel that a client cannot hear.
_BLOCK = 4  # Ranked subchannels after which it is asked whether the others matter.
_AMPLE = 2.0  # Times the rate wanted: a set that carries more says enough of prices that are too high.
_MUCH = 4.0  # A bundle that costs more than 1 proves infeasibility alone; no need to know how much more.


class Prices(NamedTuple):
    """Weights of the M subchannels and, last, of the total power; per client the count n at which its sets are split.

    level_K2 and dearer_K2 (water level in W, and (mu + alpha) / mu) of both sides are where the next search starts, and
    so is back_price_K2 of what is asked of the way back, where it is.
    """

    weight_M1: Array
    count_K: IntArray
    level_K2: Array
    dearer_K2: Array
    back_price_K2: Array = np.zeros((0, 2))


class Slow(NamedTuple):
    """What a rate of 1, up (bit/s/Hz) and on the way back (the unit of what is asked), costs: half as much twice it.

    Rates above `most_up` and `most_back` cost no less than these. Zeros where slow rates cost nothing.
    """

    up: float
    back: float
    most_up: float
    most_back: float


NOT_SLOW = Slow(0.0, 0.0, 0.0, 0.0)


class Scratch(NamedTuple):
    """Scratch space of a client's search, and the first `num_vital` of `vital`, one of which all its sets have.

    Where there are `steps`, powers are those of their rungs. `turn_M` is the turn in which a subchannel was tried last.
    """

    weight_M: Array
    cost_M: Array
    turn_M: IntArray
    turn: IntArray
    top_cost: Array
    top: IntArray
    chosen: IntArray
    below: IntArray
    above: IntArray
    vital: IntArray
    num_vital: IntArray
    steps: Steps


@part
def insert(top: IntArray, top_cost: Array, filled: int, i: int, cost: float) -> None:
    """Put a subchannel among the `filled` first of a list in the order of their costs."""
    j = filled
    while j > 0 and top_cost[j - 1] > cost:
        top_cost[j] = top_cost[j - 1]
        top[j] = top[j - 1]
        j -= 1
    top_cost[j] = cost
    top[j] = i


class Heard(NamedTuple):
    """A client's subchannels: log2 h and 1/h, and its rows of their ranking, empty where there is none."""

    log_M: Array
    inverse_M: Array
    order_J: NDArray[np.uint32]
    ranked_log_J: Array
    ranked_inverse_J: Array


@part
def heard_by(problem: BandProblem, k: int) -> Heard:
    """The subchannels of client k."""
    order_KJ, log_KJ, inverse_KJ = problem.ranking
    row = k if order_KJ.shape[1] > 0 else 0
    return Heard(problem.log_KM[k], problem.inverse_KM[k], order_KJ[row], log_KJ[row], inverse_KJ[row])


class Market(NamedTuple):
    """Prices of rate and power, and what follows from them: the water level's log2, and what a subchannel is worth.

    That is `offset` and what its gain adds to it or, at its `limit`, `full` less the power for the ratio `full_snr`.
    """

    rate_price: float
    power_price: float
    limit: float
    log_level: float
    offset: float
    full: float
    full_snr: float


@part
def market(rate_price: float, power_price: float, limit: float) -> Market:
    """The market at these prices, where a subchannel carries at most `limit` (bit/s/Hz)."""
    level = rate_price / (power_price * LOG_2)
    log_level = float(np.log2(level))
    full_snr = float(np.expm1(limit * LOG_2)) if limit < np.inf else 0.0
    full = rate_price * limit if limit < np.inf else 0.0
    return Market(
        rate_price, power_price, limit, log_level, rate_price * log_level - power_price * level, full, full_snr
    )


@part
def worth(at: Market, log: float, inverse: float) -> float:
    """What a subchannel is worth with the best power on it, where its rate does not grow in steps."""
    above = at.log_level + log
    gain = at.offset + at.rate_price * log + at.power_price * inverse
    gain = at.full - at.power_price * at.full_snr * inverse if above > at.limit else gain
    return gain if above > 0.0 else 0.0


@part
def subchannel_costs(log_M: Array, inverse_M: Array, weight_M: Array, at: Market, steps: Steps, cost_M: Array) -> None:
    """Set each subchannel's weight less what it is worth; loops do several at once."""
    if len(steps.hull_I) > 0:
        for i in range(len(cost_M)):
            cost_M[i] = 0.0
        for h in steps.hull_I[1:]:
            most, watts = at.rate_price * steps.rate_I[h], at.power_price * steps.snr_I[h]
            for i in range(len(cost_M)):
                cost = watts * inverse_M[i] - most
                cost_M[i] = cost if cost < cost_M[i] else cost_M[i]
        for i in range(len(cost_M)):
            cost_M[i] = weight_M[i] + cost_M[i] if log_M[i] > NO_GAIN_LOG2 else NEVER
        return
    for i in range(len(cost_M)):
        cost = weight_M[i] - worth(at, log_M[i], inverse_M[i])
        cost_M[i] = cost if log_M[i] > NO_GAIN_LOG2 else NEVER


class Weights(NamedTuple):
    """What subchannels cost: each, the least, and their order from the cheapest on, empty where that is not known."""

    weight_M: Array
    least: float
    cheap_M: IntArray


@part
def least_of(weight_M: Array) -> float:
    """The least of all weights."""
    least = np.inf
    for i in range(len(weight_M)):
        least = weight_M[i] if weight_M[i] < least else least
    return least


@part
def sorted_weights(problem: BandProblem, weight_M: Array) -> Weights:
    """The weights, sorted where subchannels are ranked."""
    ranked = problem.ranking.order_KJ.shape[1] > 0
    return Weights(weight_M, least_of(weight_M), np.argsort(weight_M if ranked else weight_M[:0]))


@part
def cheapest_set(
    heard: Heard,
    paid: Weights,
    rate_price: float,
    power_price: float,
    n: int,
    more: bool,
    limit: float,
    most: float,
    scratch: Scratch,
) -> tuple[float, float, float, int, bool]:
    """Cheapest set of at most n >= 1 subchannels (with `more`: of at least n): its cost, rate, power and size.

    Where the scratch space lists vital ones, only sets with one of these count. Ranked subchannels are tried from the
    strongest and from the cheapest on until no other can be in the set or, with `more`, until it has a rate of `most`;
    that it is not the cheapest then is said last.
    """
    at, steps, weight_M, cheap_M = market(rate_price, power_price, limit), scratch.steps, paid.weight_M, paid.cheap_M
    log_M, inverse_M, cost_M, turn_M = heard.log_M, heard.inverse_M, scratch.cost_M, scratch.turn_M
    top, top_cost, chosen, filled, size, whole = scratch.top, scratch.top_cost, scratch.chosen, 0, 0, True
    order_J, ranked_log_J, ranked_inverse_J = heard.order_J, heard.ranked_log_J, heard.ranked_inverse_J
    ranked, lists = len(order_J) > 0 and len(steps.hull_I) == 0, 2 if len(cheap_M) > 0 else 1
    scratch.turn[0] += 1
    turn = scratch.turn[0]
    for m in range(scratch.num_vital[0] if ranked else 0):
        i = int(scratch.vital[m])
        cost = weight_M[i] - worth(at, log_M[i], inverse_M[i])
        cost_M[i] = cost if log_M[i] > NO_GAIN_LOG2 else NEVER
    decided = False
    for all_of_them in range(0 if ranked else 1, 2):
        if decided:
            break
        filled, size, carried, whole, dearest = 0, 0, 0.0, True, np.inf if more else 0.0
        if all_of_them:
            subchannel_costs(log_M, inverse_M, weight_M, at, steps, cost_M)
        for s in range(len(log_M) if all_of_them else len(order_J)):
            if not all_of_them and s % _BLOCK == 0:
                least = weight_M[cheap_M[s]] if lists == 2 else paid.least
                cost = least - worth(at, ranked_log_J[s], ranked_inverse_J[s])
                whole = not (more and filled == n and carried >= most)
                decided = not whole or (cost >= dearest and not (more and cost < 0.0))
                if decided:
                    break
            for way in range(1 if all_of_them else lists):
                i = s
                if not all_of_them:
                    i = int(order_J[s]) if way == 0 else int(cheap_M[s])
                    if turn_M[i] == turn:
                        continue
                    turn_M[i] = turn
                    log = ranked_log_J[s] if way == 0 else log_M[i]
                    cost = weight_M[i] - worth(at, log, ranked_inverse_J[s] if way == 0 else inverse_M[i])
                    cost_M[i] = cost if log > NO_GAIN_LOG2 else NEVER
                    if cost < 0.0:
                        carried += min(at.log_level + log, limit)
                cost = cost_M[i]
                if cost >= dearest:
                    if more and cost < 0.0:
                        chosen[size] = i
                        size += 1
                    continue
                if filled == n:
                    filled -= 1
                    if more and top_cost[filled] < 0.0:
                        chosen[size] = top[filled]
                        size += 1
                insert(top, top_cost, filled, i, cost)
                filled += 1
                if filled == n:
                    dearest = top_cost[n - 1]
    for j in range(filled):
        chosen[size] = top[j]
        size += 1
    size = with_vital(scratch, size, n, more)
    cost, rate, power_w = 0.0, 0.0, 0.0
    level = rate_price / (power_price * LOG_2)
    for j in range(size):
        i = int(chosen[j])
        cost += float(cost_M[i])
        if len(steps.hull_I) > 0:
            h = steps.hull_I[last_place(steps, float(inverse_M[i]), level * LOG_2)]
            rate += float(steps.rate_I[h])
            power_w += float(steps.snr_I[h] * inverse_M[i])
        elif at.log_level + log_M[i] > limit:
            rate += limit
            power_w += at.full_snr * float(inverse_M[i])
        elif at.log_level + log_M[i] > 0.0:
            rate += at.log_level + float(log_M[i])
            power_w += level - float(inverse_M[i])
    return cost, rate, power_w, size, whole


@part
def with_vital(scratch: Scratch, size: int, n: int, more: bool) -> int:
    """Have a vital subchannel in the set chosen, the dearest of which is last, as cheaply as can be; the new size."""
    best = -1
    for m in range(scratch.num_vital[0]):
        i = int(scratch.vital[m])
        if best < 0 or scratch.cost_M[i] < scratch.cost_M[best]:
            best = i
        for j in range(size):
            if scratch.chosen[j] == i:
                return size
    if best < 0:
        return size
    if size == n and (not more or scratch.cost_M[scratch.chosen[size - 1]] > 0.0):
        size -= 1
    scratch.chosen[size] = best
    return size + 1


class Bracket(NamedTuple):
    """Around the top of a concave function: point, value and slope on both sides of it; slope 0 where none is known."""

    low: float
    low_value: float
    low_slope: float
    high: float
    high_value: float
    high_slope: float


NO_BRACKET = Bracket(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


@part
def narrowed(ends: Bracket, point: float, value: float, slope: float) -> Bracket:
    """The bracket with a point that was evaluated."""
    if slope > 0.0:
        return Bracket(point, value, slope, ends.high, ends.high_value, ends.high_slope)
    return Bracket(ends.low, ends.low_value, ends.low_slope, point, value, slope)


@part
def promising(ends: Bracket, best: float, tolerance: float) -> float:
    """Where the tangents at both ends meet, kept off the ends; -1 where they promise no more than `tolerance`."""
    width = ends.high - ends.low
    rise = ends.high_value - ends.low_value + ends.low_slope * ends.low - ends.high_slope * ends.high
    meeting = min(max(rise / (ends.low_slope - ends.high_slope), ends.low + 0.02 * width), ends.high - 0.02 * width)
    if width <= 1e-9 * ends.high or ends.low_value + ends.low_slope * (meeting - ends.low) - best <= tolerance:
        return -1.0
    return meeting


@part
def tangent(slow: float, price: float, least: float, most: float) -> tuple[float, float]:
    """The least of slow / rate + price rate over rates between `least` and `most`, and the rate where it is."""
    if slow <= 0.0:
        return price * least, least
    rate = min(max(float(np.sqrt(slow / price)), least), most) if price > 0.0 else max(most, least)
    return slow / rate + price * rate, rate


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


class Wanted(NamedTuple):
    """What a client wants at which price of a watt: a rate (bit/s/Hz) and so much of the way back, or more where slow
    ones cost, from n subchannels or more, else at most n. Prices are searched to within `tolerance`.
    """

    rate: float
    ask: float
    watt_price: float
    n: int
    more: bool
    tolerance: float
    slow: Slow


class ClientPrices(NamedTuple):
    """Water level (W), (mu + alpha) / mu, and price of what is asked of the way back."""

    level: float
    dearer: float
    back_price: float


@part
def best_rate_price(
    heard: Heard,
    weights: Weights,
    limit: float,
    power_price: float,
    level: float,
    wanted: Wanted,
    enough: float,
    scratch: Scratch,
) -> Bundle:
    """Maximise over nu: nu rate + cheapest set, for a given price of power; a value of `enough` ends the search.

    The rate is that wanted or, where slow rates cost, any from there on: that with the least of its cost and nu rate.
    """
    best, best_level, ends = -np.inf, level, NO_BRACKET
    low_power, high_power, num_below, num_above = 0.0, 0.0, -1, -1
    price = level * power_price * LOG_2
    for turn in range(40):
        spent, rate = tangent(wanted.slow.up, price, wanted.rate, wanted.slow.most_up)
        cost, set_rate, power_w, size, whole = cheapest_set(
            heard, weights, price, power_price, wanted.n, wanted.more, limit, _AMPLE * rate, scratch
        )
        value = spent + cost
        if whole and value > best:
            best, best_level = value, price / (power_price * LOG_2)
        ends = narrowed(ends, price, value, rate - set_rate)
        if set_rate < rate:
            low_power, num_below = power_w, size
            copy(scratch.chosen, scratch.below, size)
        else:
            high_power, num_above = power_w, size
            copy(scratch.chosen, scratch.above, size)
        if abs(set_rate - rate) <= 1e-9 * rate or best > enough:
            break
        # The same set would have the rate wanted at this price.
        peak = price * 2.0 ** min(max((rate - set_rate) / max(size, 1), -20.0), 20.0)
        if num_below < 0 or num_above < 0:
            # Full subchannels carry no more at any price: the steps grow.
            stride = 2.0 ** min(turn, 20) if limit < np.inf else 1.0
            price = max(peak, price * stride) if set_rate < rate else min(peak, price / stride)
            continue
        meeting = promising(ends, best, wanted.tolerance)
        if meeting < 0.0:
            break
        inside = ends.low < peak < ends.high and turn % 2 == 0
        price = 0.5 * (ends.low + ends.high) if turn % 4 == 3 else peak if inside else meeting
    if num_below < 0:
        return Bundle(best, best_level, 0.0, 0, num_above, high_power, float(num_above))
    if num_above < 0:
        return Bundle(best, best_level, 1.0, num_below, 0, low_power, float(num_below))
    share = ends.high_slope / (ends.high_slope - ends.low_slope)
    power_w = share * low_power + (1.0 - share) * high_power
    return Bundle(best, best_level, share, num_below, num_above, power_w, share * num_below + (1.0 - share) * num_above)


@part
def best_one_way(
    heard: Heard,
    weights: Weights,
    cap_w: float,
    limit: float,
    wanted: Wanted,
    start: ClientPrices,
    scratch: Scratch,
) -> tuple[Bundle, ClientPrices]:
    """Maximise over nu and alpha: nu rate - alpha cap + cheapest set."""
    watt_price, level, ends, turn = wanted.watt_price, start.level, NO_BRACKET, 0
    price, best, best_level, best_dearer = watt_price * max(start.dearer, 1.0), -np.inf, level, 1.0
    while True:
        cap_cost = (price - watt_price) * cap_w
        bundle = best_rate_price(heard, weights, limit, price, level, wanted, _MUCH + cap_cost, scratch)
        level, value, slope = bundle.level, bundle.value - cap_cost, bundle.power_w - cap_w
        if value > best:
            best, best_level, best_dearer = value, level, price / watt_price
        turn += 1
        if best > _MUCH or abs(slope) <= 1e-6 * cap_w or (slope <= 0.0 and price <= watt_price) or turn == 40:
            break
        ends = narrowed(ends, price, value, slope)
        if ends.high == 0.0:
            price *= 2.0 if turn < 3 else 16.0
        elif ends.low == 0.0:
            price = max(watt_price, price * (0.5 if turn < 3 else 1.0 / 16.0))
        else:
            meeting = promising(ends, best, wanted.tolerance)
            if meeting < 0.0:
                break
            price = 0.5 * (ends.low + ends.high) if turn % 3 == 2 else meeting
    return at_best(bundle, best, best_level), ClientPrices(best_level, best_dearer, 0.0)


@part
def at_best(bundle: Bundle, value: float, level: float) -> Bundle:
    """The last bundle of a search with the best value met, and the water level there."""
    return Bundle(value, level, bundle.share_below, bundle.num_below, bundle.num_above, bundle.power_w, bundle.size)


@part
def _carried_back(bundle: Bundle, scratch: Scratch, back_M: Array) -> float:
    """What a bundle carries on the way back."""
    below, above = 0.0, 0.0
    for j in range(bundle.num_below):
        below += float(back_M[scratch.below[j]])
    for j in range(bundle.num_above):
        above += float(back_M[scratch.above[j]])
    return bundle.share_below * below + (1.0 - bundle.share_below) * above


@part
def best_prices(
    heard: Heard,
    weights: Weights,
    back_M: Array,
    cap_w: float,
    limit: float,
    wanted: Wanted,
    start: ClientPrices,
    scratch: Scratch,
) -> tuple[Bundle, ClientPrices]:
    """The best prices of a client, searched from given ones, and its bundle there; `back_M` counts where it asks.

    A set S has to carry `ask` in sum of `back_M`, or as much more as pays: at a price delta the cheapest that does
    costs at least delta ask and what it costs with weights w_i - delta back_i.
    """
    if not (wanted.ask > 0.0 or wanted.slow.back > 0.0):
        return best_one_way(heard, weights, cap_w, limit, wanted, start, scratch)
    ends, price, best, found = NO_BRACKET, max(start.back_price, 0.0), -np.inf, start
    bundle, known = Bundle(best, start.level, 0.0, 0, 0, 0.0, 0.0), start
    for turn in range(30):
        for i in range(len(weights.weight_M)):
            scratch.weight_M[i] = weights.weight_M[i] - price * back_M[i]
        paid = Weights(scratch.weight_M, least_of(scratch.weight_M), weights.cheap_M[:0])
        bundle, known = best_one_way(heard, paid, cap_w, limit, wanted, known, scratch)
        spent, ask = tangent(wanted.slow.back, price, wanted.ask, wanted.slow.most_back)
        known, value = ClientPrices(max(bundle.level, 1e-200), known.dearer, price), bundle.value + spent
        slope = ask - _carried_back(bundle, scratch, back_M)
        if value > best:
            best, found = value, known
        if best > _MUCH or abs(slope) <= 1e-6 * ask or (slope <= 0.0 and price <= 0.0):
            break
        ends = narrowed(ends, price, value, slope)
        if ends.high_slope == 0.0:
            price = max(2.0 * price, max(abs(value), 1e-6) / ask) * (1.0 if turn < 6 else 16.0)
        elif ends.low_slope == 0.0:
            price = 0.5 * price if turn < 3 else 0.0
        else:
            meeting = promising(ends, best, wanted.tolerance)
            if meeting < 0.0:
                break
            price = 0.5 * (ends.low + ends.high) if turn % 3 == 2 else meeting
    return at_best(bundle, best, found.level), found


@part
def new_scratch(M: int, steps: Steps) -> Scratch:
    """Scratch space for M subchannels, and the steps of rates."""
    return Scratch(
        np.zeros(M),
        np.zeros(M),
        np.zeros(M, np.int64),
        np.zeros(1, np.int64),
        np.zeros(M + 1),
        np.zeros(M + 1, np.int64),
        np.zeros(M, np.int64),
        np.zeros(M, np.int64),
        np.zeros(M, np.int64),
        np.zeros(M, np.int64),
        np.zeros(1, np.int64),
        steps,
    )
