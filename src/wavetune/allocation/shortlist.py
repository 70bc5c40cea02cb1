"""Compiled: a client's best prices found on its few most promising subchannels, and proved on all of them.

Prices of a client's rate, cap and way back give a valid bound whatever they are (see `prices`), so that their search
can look at few subchannels: what it finds is then worked out once on all of them. Where this is less, what was missing
joins the few. Shape suffixes: M subchannels, J those on the list.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from wavetune.allocation.prices import (
    LOG_2,
    NOT_SLOW,
    Bundle,
    Scratch,
    best_prices,
    best_prices_both_ways,
    cheapest_set,
    insert,
    new_scratch,
)
from wavetune.allocation.problem import IntArray
from wavetune.allocation.water_filling import BandProblem, Steps, part
from wavetune.units import Array

_ROUNDS = 4  # Of a longer list each; then all subchannels are searched.
_SPARE, _EACH = 12, 3  # Length of a list beside the set, and for each subchannel of a set.
_PART, _MOST_PART = 12, 4  # A list that is not shorter than the band by the first factor does not pay; room to grow.


class Shortlists(NamedTuple):
    """Which subchannels are on each client's list, a list for each side of its sets, and scratch space for one list.

    A list stays from search to search and grows by what was missing, as long as there is room.
    """

    index_K2J: IntArray
    length_K2: IntArray
    log_J: Array
    inverse_J: Array
    weight_J: Array
    back_J: Array
    scratch: Scratch


class ClientPrices(NamedTuple):
    """Water level (W), (mu + alpha) / mu, and price of what is asked of the way back."""

    level: float
    dearer: float
    back_price: float


class Wanted(NamedTuple):
    """What client k wants at which price of a watt: a rate (bit/s/Hz), so much of the way back, n subchannels or more.

    The prices are searched to within `tolerance`.
    """

    k: int
    rate: float
    ask: float
    watt_price: float
    n: int
    more: bool
    tolerance: float


@part
def new_shortlists(K: int, M: int, steps: Steps) -> Shortlists:
    """Empty lists, with room for a part of M subchannels."""
    most = M // _MOST_PART
    return Shortlists(
        np.zeros((K, 2, most), np.int64), np.zeros((K, 2), np.int64),
        np.zeros(most), np.zeros(most), np.zeros(most), np.zeros(most), new_scratch(most, steps),
    )  # fmt: skip


@part
def searched(
    log_J: Array,
    inverse_J: Array,
    weight_J: Array,
    back_J: Array,
    cap_w: float,
    limit: float,
    wanted: Wanted,
    start: ClientPrices,
    scratch: Scratch,
) -> tuple[Bundle, ClientPrices]:
    """The best prices on the subchannels given, and the bundle there."""
    if wanted.ask > 0.0:
        bundle, dearer, back_price = best_prices_both_ways(
            log_J, inverse_J, weight_J, wanted.rate, NOT_SLOW, wanted.watt_price, cap_w, start.level, start.dearer,
            wanted.n, wanted.more, wanted.tolerance, limit, back_J, wanted.ask, start.back_price, scratch,
        )  # fmt: skip
        return bundle, ClientPrices(bundle.level, dearer, back_price)
    bundle, dearer = best_prices(
        log_J, inverse_J, weight_J, wanted.rate, NOT_SLOW, wanted.watt_price, cap_w, start.level, start.dearer,
        wanted.n, wanted.more, wanted.tolerance, limit, scratch,
    )  # fmt: skip
    return bundle, ClientPrices(bundle.level, dearer, 0.0)


@part
def proved_on_all(
    problem: BandProblem, weight_M: Array, wanted: Wanted, prices: ClientPrices, scratch: Scratch
) -> tuple[float, int]:
    """What given prices prove that client k's sets cost, and the size of the cheapest; `scratch` holds it."""
    k, power_price = wanted.k, wanted.watt_price * prices.dearer
    rate_price = prices.level * power_price * LOG_2
    if wanted.ask > 0.0:
        for i in range(len(weight_M)):
            scratch.weight_M[i] = weight_M[i] - prices.back_price * problem.back_KM[k, i]
    cost, _, _, size = cheapest_set(
        problem.log_KM[k], problem.inverse_KM[k], scratch.weight_M if wanted.ask > 0.0 else weight_M, rate_price,
        power_price, wanted.n, wanted.more, problem.limit, scratch,
    )  # fmt: skip
    spent = rate_price * wanted.rate - (power_price - wanted.watt_price) * problem.cap_w_K[k]
    return spent + prices.back_price * wanted.ask + cost, size


@part
def add(index_J: IntArray, length: int, i: int) -> int:
    """Put a subchannel on a list unless it is there or the list is full; its length."""
    for j in range(length):
        if index_J[j] == i:
            return length
    if length < len(index_J):
        index_J[length] = i
        length += 1
    return length


@part
def cheapest(cost_M: Array, most: int, top: IntArray, top_cost: Array) -> None:
    """The `most` subchannels of least cost, cheapest first."""
    filled = 0
    for i in range(len(cost_M)):
        cost = cost_M[i]
        if filled == most:
            if cost >= top_cost[most - 1]:
                continue
            filled -= 1
        insert(top, top_cost, filled, i, cost)
        filled += 1


@part
def listed(
    problem: BandProblem, weight_M: Array, wanted: Wanted, start: ClientPrices, scratch: Scratch, index_J: IntArray
) -> int:
    """List the subchannels of least cost at given prices; the list's length, 0 where it would not be short."""
    most = _EACH * (wanted.n + 1) + _SPARE
    if most * _PART > len(weight_M):
        return 0
    _, size = proved_on_all(problem, weight_M, wanted, start, scratch)
    most = max(most, size + _SPARE)
    if most > len(index_J):
        return 0
    cheapest(scratch.cost_M, most, scratch.top, scratch.top_cost)
    for j in range(most):
        index_J[j] = scratch.top[j]
    return most


@part
def best_on_list(
    problem: BandProblem, weight_M: Array, wanted: Wanted, start: ClientPrices, vital: Scratch, lists: Shortlists
) -> tuple[Bundle, ClientPrices]:
    """The best prices on client k's list, and the bundle there, of places on the list."""
    k, index_J = wanted.k, lists.index_K2J[wanted.k, int(wanted.more)]
    length = int(lists.length_K2[k, int(wanted.more)])
    for j in range(length):
        i = index_J[j]
        lists.log_J[j], lists.inverse_J[j] = problem.log_KM[k, i], problem.inverse_KM[k, i]
        lists.weight_J[j] = weight_M[i]
        if wanted.ask > 0.0:
            lists.back_J[j] = problem.back_KM[k, i]
    lists.scratch.num_vital[0] = 0
    for m in range(vital.num_vital[0]):
        for j in range(length):
            if index_J[j] == vital.vital[m]:
                lists.scratch.vital[lists.scratch.num_vital[0]] = j
                lists.scratch.num_vital[0] += 1
    return searched(
        lists.log_J[:length], lists.inverse_J[:length], lists.weight_J[:length], lists.back_J[:length],
        float(problem.cap_w_K[k]), problem.limit, wanted, start, lists.scratch,
    )  # fmt: skip


@part
def best_bundle(
    problem: BandProblem, weight_M: Array, wanted: Wanted, start: ClientPrices, scratch: Scratch, lists: Shortlists
) -> tuple[Bundle, ClientPrices]:
    """The best prices of client k's bundle and what they prove; `scratch` lists vital ones and receives both sets.

    Its value is valid on all subchannels; which are in it may be told from those on the list.
    """
    k, prices, side = wanted.k, start, int(wanted.more)
    index_J, length_2 = lists.index_K2J[k, side], lists.length_K2[k]
    if length_2[side] < _EACH * (wanted.n + 1):
        length_2[side] = listed(problem, weight_M, wanted, start, scratch, index_J)
    for m in range(scratch.num_vital[0] if length_2[side] > 0 else 0):
        length_2[side] = add(index_J, length_2[side], scratch.vital[m])
    for _ in range(_ROUNDS if length_2[side] > 0 else 0):
        bundle, prices = best_on_list(problem, weight_M, wanted, prices, scratch, lists)
        value, size = proved_on_all(problem, weight_M, wanted, prices, scratch)
        if value >= bundle.value - wanted.tolerance:
            for j in range(bundle.num_below):
                scratch.below[j] = index_J[lists.scratch.below[j]]
            for j in range(bundle.num_above):
                scratch.above[j] = index_J[lists.scratch.above[j]]
            proved = Bundle(
                value, bundle.level, bundle.share_below, bundle.num_below, bundle.num_above, bundle.power_w,
                bundle.size,
            )  # fmt: skip
            return proved, prices
        before = length_2[side]
        for j in range(size):
            length_2[side] = add(index_J, length_2[side], scratch.chosen[j])
        if length_2[side] == before:
            length_2[side] = 0
            break
    back_M = problem.back_KM[k] if wanted.ask > 0.0 else weight_M
    return searched(
        problem.log_KM[k], problem.inverse_KM[k], weight_M, back_M, float(problem.cap_w_K[k]), problem.limit, wanted,
        prices, scratch,
    )  # fmt: skip
