"""Compiled choice of every client's cut at given prices of both bands, with the best last backward pass.

For multipliers mu and nu >= 0 of the main and the fed band, sharing the step's end B among all clients,
    min over B of  B + sum_k min over cuts with back_kc <= B of [work_kc + mu main_kc + nu fed_kc]  -  mu - nu
bounds from below what follows the last activations; it is concave in (mu, nu). Shape suffixes: K clients, C cuts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from wavetune.allocation.compiled import kernel, part
from wavetune.allocation.problem import IntArray
from wavetune.units import Array


class PricedChoices(NamedTuple):
    """Seconds of each cut, its shares of both bands (infinite where impossible), and all cuts by ascending `back_KC`.

    `order` holds k C + c; B is at least `least_back`.
    """

    work_KC: Array
    back_KC: Array
    main_KC: Array
    fed_KC: Array
    order: IntArray
    least_back: float


class Outcome(NamedTuple):
    """Value at given multipliers, and by how much the picks exceed both bands."""

    value: float
    over_main: float
    over_fed: float


@part
def choose_all(choices: PricedChoices, mu: float, nu: float, best_K: Array, pick_K: IntArray) -> Outcome:
    """The cheapest choices at the multipliers; `pick_K` receives them."""
    K, C = choices.work_KC.shape
    count, total, value, last = 0, 0.0, np.inf, -1
    for k in range(K):
        best_K[k] = np.inf
    for place in range(len(choices.order)):
        k, c = choices.order[place] // C, choices.order[place] % C
        price = float(choices.work_KC[k, c] + mu * choices.main_KC[k, c] + nu * choices.fed_KC[k, c])
        if price < best_K[k]:
            if best_K[k] == np.inf:
                count += 1
                total += price
            else:
                total += price - float(best_K[k])
            best_K[k] = price
            end = max(float(choices.back_KC[k, c]), choices.least_back) + total
            if count == K and end < value:
                value, last = end, place
    if last < 0:
        return Outcome(np.inf, 0.0, 0.0)
    over_main, over_fed = -1.0, -1.0
    for k in range(K):
        best_K[k] = np.inf
    for place in range(last + 1):
        k, c = choices.order[place] // C, choices.order[place] % C
        price = choices.work_KC[k, c] + mu * choices.main_KC[k, c] + nu * choices.fed_KC[k, c]
        if price < best_K[k]:
            best_K[k] = price
            pick_K[k] = c
    for k in range(K):
        over_main += float(choices.main_KC[k, pick_K[k]])
        over_fed += float(choices.fed_KC[k, pick_K[k]])
    return Outcome(value - mu - nu, over_main, over_fed)


@part
def best_of_main(choices: PricedChoices, nu: float, scale: float, best_K: Array, pick_K: IntArray) -> Outcome:
    """The largest value over mu; the picks keep the main band where some do."""
    best = choose_all(choices, 0.0, nu, best_K, pick_K)
    if best.over_main <= 0.0 or best.value == np.inf:
        return best
    low, high = float(np.log(1e-6 * scale)), float(np.log(1e3 * scale))
    value, over_main, over_fed = best.value, 1.0, best.over_fed
    kept_K = pick_K.copy()
    for _ in range(22):
        middle = 0.5 * (low + high)
        tried = choose_all(choices, float(np.exp(middle)), nu, best_K, pick_K)
        value = max(value, tried.value)
        if tried.over_main > 0.0:
            low = middle
        else:
            high, over_main, over_fed = middle, tried.over_main, tried.over_fed
            kept_K[:] = pick_K
    pick_K[:] = kept_K
    return Outcome(value, over_main, over_fed)


@kernel
def best_bound(choices: PricedChoices, scale: float) -> tuple[float, IntArray]:
    """The largest value over both multipliers, and picks beside it; infinite where some client has no choice."""
    K = len(choices.work_KC)
    best_K, pick_K = np.zeros(K), np.zeros(K, np.int64)
    best = best_of_main(choices, 0.0, scale, best_K, pick_K)
    if best.over_fed <= 0.0 or best.value == np.inf:
        return best.value, pick_K
    value, low, high = best.value, float(np.log(1e-6 * scale)), float(np.log(1e3 * scale))
    kept_K = pick_K.copy()
    for _ in range(16):
        middle = 0.5 * (low + high)
        tried = best_of_main(choices, float(np.exp(middle)), scale, best_K, pick_K)
        value = max(value, tried.value)
        if tried.over_fed > 0.0:
            low = middle
        else:
            high = middle
            kept_K[:] = pick_K
    return value, kept_K
