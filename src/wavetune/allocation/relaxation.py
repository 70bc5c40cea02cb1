"""Lower bounds where every client may choose its own cut, and the choices that they suggest.

Claim: in a plan whose last activations arrive at U and whose last adapters at F, client k with cut c needs rates that
take at least V_kc(U) of the main band and W_kc(F) of the fed band (`rate_costs`), each together at most 1. With B when
the last backward pass is done after the server, any multipliers mu, nu >= 0 give for the rest of the step
    min over B of  B + sum_k min over cuts with back_kc <= B of [work_kc + mu V_kc(U) + nu W_kc(F)]  -  mu  -  nu.
V and W decrease, so that their values at the ends of intervals and U and F at their starts bound whole intervals; these
are split where the bound is least. Where clients share the server, a step of T seconds needs shares of band and server,
    sum_k min over cuts and airtimes of [lambda V + (1 - lambda) work / (T - ready - airtime - back)] <= 1
for every lambda between 0 and 1: the least T not refuted is the bound.
Shape suffixes: K clients, C cuts, J rates.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from wavetune.allocation.delay import transfer_s
from wavetune.allocation.problem import IntArray
from wavetune.allocation.rate_costs import RateCosts
from wavetune.allocation.water_filling import kernel, part
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
            kept_K = pick_K.copy()
    for k in range(len(pick_K)):
        pick_K[k] = kept_K[k]
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
            kept_K = pick_K.copy()
    return value, kept_K


_SAFE = 1 - 1e-9


@dataclass(frozen=True, eq=False)
class Choices:
    """Seconds of every cut in a step, and the rate-seconds to send (bit/Hz); not allowed where `back_s_KC` is infinite.

    `back_s_KC` counts from the server's end to the end of the backward pass; no step has it below `least_back_s` at the
    last client, nor below `back_after_s(U)` where the last activations arrive by U, and after an upload of F seconds
    `fed_after_s(F)` follow at least. Where clients share the server and the way back is priced, it comes on top: bits,
    and the rate of each subchannel.
    """

    ready_s_KC: Array
    back_s_KC: Array
    work_s_KC: Array
    need_KC: Array
    fed_need_KC: Array
    least_back_s: float = 0.0
    back_after_s: Callable[[float], float] | None = None
    fed_after_s: Callable[[float], float] | None = None
    down_bits_KC: Array | None = None
    down_bit_per_s_KM: Array | None = None


_Interval = tuple[float, float]


class Pick(NamedTuple):
    """A choice per client (column of its cut) and, where the server is shared, shares that go with it."""

    choice_K: IntArray
    share_K: Array | None = None


@dataclass(frozen=True)
class Bound:
    """Nothing is shorter than `least_s`; `picks` came close in the relaxation."""

    least_s: float
    picks: tuple[Pick, ...]


def bound_together(
    choices: Choices, main: RateCosts, fed: RateCosts, steps: int, least_fed_s: float, beat_s: float, boxes: int
) -> Bound:
    """Least round where the server works on all batches together; at most `beat_s`, what is of interest.

    Args:
        choices: what clients may choose.
        main, fed: costs of rates in both bands.
        steps: local steps of a round.
        least_fed_s: no upload of the adapters takes less.
        beat_s: a known round; longer ones are of no interest.
        boxes: at most so many pairs of intervals, of the last activations and of the upload, are split.
    """
    allowed_KC = np.isfinite(choices.back_s_KC)
    low_s = float(np.max(np.min(np.where(allowed_KC, choices.ready_s_KC, np.inf), axis=1)))
    least_rest_s = float(np.sum(np.min(choices.work_s_KC, axis=1))) + choices.least_back_s
    high_s = (beat_s - least_fed_s) / steps - least_rest_s
    most_fed_s = beat_s - steps * (low_s + least_rest_s)
    if not (high_s > low_s and most_fed_s > least_fed_s):
        return Bound(beat_s, ())
    order = np.argsort(choices.back_s_KC, axis=None, kind="stable").astype(np.int64)
    found: list[tuple[float, IntArray]] = []

    def look(up_s: tuple[float, float], fed_s: tuple[float, float]) -> tuple[float, int, _Interval, _Interval]:
        main_KC = np.where(allowed_KC, main.at(rate_needed(choices.need_KC, up_s[1] - choices.ready_s_KC)), np.inf)
        fed_KC = np.where(allowed_KC, fed.at(rate_needed(choices.fed_need_KC, fed_s[1])), np.inf)
        after_s = choices.back_after_s(up_s[1]) if choices.back_after_s else 0.0
        least_back_s = max(choices.least_back_s, after_s)
        priced = PricedChoices(choices.work_s_KC, choices.back_s_KC, main_KC, fed_KC, order, least_back_s)
        rest_s, pick_K = best_bound(priced, up_s[1])
        if np.isfinite(rest_s):
            found.append((steps * (up_s[1] + rest_s) + fed_s[1], pick_K))
        fed_after_s = choices.fed_after_s(fed_s[1]) if choices.fed_after_s else 0.0
        return steps * (up_s[0] + rest_s) + fed_s[0] + fed_after_s, len(found), up_s, fed_s

    edges_s = low_s + (high_s - low_s) * np.linspace(0.0, 1.0, 9) ** 2
    queue = [look((float(a), float(b)), (least_fed_s, most_fed_s)) for a, b in itertools.pairwise(edges_s)]
    heapq.heapify(queue)
    for _ in range(boxes):
        bound_s, _, up_s, fed_s = queue[0]
        if bound_s >= beat_s * (1 - 1e-4):
            break
        heapq.heappop(queue)
        if steps * (up_s[1] - up_s[0]) > fed_s[1] - fed_s[0]:
            middle_s = 0.5 * (up_s[0] + up_s[1])
            halves = [((up_s[0], middle_s), fed_s), ((middle_s, up_s[1]), fed_s)]
        else:
            middle_s = float(np.sqrt(fed_s[0] * fed_s[1])) if fed_s[0] > 0.1 * fed_s[1] else 0.5 * (fed_s[0] + fed_s[1])
            halves = [(up_s, (fed_s[0], middle_s)), (up_s, (middle_s, fed_s[1]))]
        for half in halves:
            heapq.heappush(queue, look(*half))
    return Bound(min(queue[0][0], beat_s) * _SAFE, _nearest(found))


def rate_needed(need_KC: Array, left_s_KC: Array | float) -> Array:
    """Rate that a need takes in the seconds left; infinite where none are left, also for nothing to send."""
    with np.errstate(divide="ignore", invalid="ignore"):
        rate_KC = np.where(need_KC > 0, np.where(left_s_KC > 0, need_KC / left_s_KC, np.inf), 0.0)
    return np.where(np.less(left_s_KC, 0), np.inf, rate_KC)


def bound_shared(
    choices: Choices, costs: RateCosts, num_rates: int, low_s: float, beat_s: float, precision: float
) -> Bound:
    """Least step where clients share the server, between `low_s`, already proved, and `beat_s`, what is of interest."""
    if not low_s < beat_s:
        return Bound(min(low_s, beat_s), ())
    table = _SharedTable(choices, costs, num_rates)
    pick = table.refutes(beat_s * (1 - 1e-9))
    if pick is None:
        return Bound(beat_s * _SAFE, ())
    picks, high_s, low_s = [pick], beat_s, max(low_s, table.start_s)
    for _ in range(30):
        if high_s - low_s <= precision * high_s:
            break
        middle_s = 0.5 * (low_s + high_s)
        pick = table.refutes(middle_s)
        if pick is None:
            low_s = middle_s
        else:
            high_s = middle_s
            picks.append(pick)
    return Bound(low_s * _SAFE, tuple(picks[-2:]))


class _SharedTable:
    """Costs at a fine grid of rates, with which a step's length can be refuted."""

    def __init__(self, choices: Choices, costs: RateCosts, num_rates: int) -> None:
        self.choices = choices
        fine = costs.ratio ** (costs.value_KG2.shape[1] / num_rates)
        rate_KJ = costs.low_K[:, None] * fine ** np.arange(num_rates)
        # Interval j: rates from rate_KJ[j - 1] to rate_KJ[j], the first from 0, the last without end.
        self.cost_KJ = np.concatenate((np.zeros((len(rate_KJ), 1)), costs.at(rate_KJ)), axis=1)
        self.cost_KJ = np.maximum.accumulate(self.cost_KJ, axis=1)
        self.air_s_KCJ = np.concatenate(
            (choices.need_KC[:, :, None] / rate_KJ[:, None, :], np.zeros((*choices.need_KC.shape, 1))), axis=2
        )
        if choices.down_bits_KC is not None and choices.down_bit_per_s_KM is not None:
            # What costs less than the next interval's first rate has no more subchannels than that cost buys.
            most_KJ = np.concatenate((self.cost_KJ[:, 1:], np.ones((len(rate_KJ), 1))), axis=1)
            down_KJ = costs.most_of(choices.down_bit_per_s_KM, np.minimum(most_KJ, 1.0))
            self.air_s_KCJ += transfer_s(choices.down_bits_KC[:, :, None], down_KJ[:, None, :])
        other_KC = choices.ready_s_KC + choices.back_s_KC
        self.start_s = float(np.max(np.min(other_KC + choices.work_s_KC, axis=1))) * (1 - 1e-9)

    def refutes(self, step_s: float) -> Pick | None:
        """None if no plan has a step of `step_s`, else what is chosen at the best multiplier."""
        choices = self.choices
        left_s_KCJ = step_s - (choices.ready_s_KC + choices.back_s_KC)[:, :, None] - self.air_s_KCJ
        with np.errstate(divide="ignore", invalid="ignore"):
            share_KCJ = np.where(left_s_KCJ > 0, choices.work_s_KC[:, :, None] / left_s_KCJ, np.inf)
        share_KCJ = np.where((left_s_KCJ == 0) & (choices.work_s_KC[:, :, None] == 0), 0.0, share_KCJ)
        cut_KJ = np.argmin(share_KCJ, axis=1)
        share_KJ = np.min(share_KCJ, axis=1)
        possible_KJ = (share_KJ <= 1.0) & np.isfinite(self.cost_KJ)
        if not np.all(np.any(possible_KJ, axis=1)):
            return None
        share_KJ, cost_KJ = (np.where(possible_KJ, x, np.inf) for x in (share_KJ, self.cost_KJ))
        clients, low, high = np.arange(len(cut_KJ)), 0.0, 1.0
        pick_K = np.zeros(len(cut_KJ), dtype=np.int64)
        for _ in range(20):
            weight = 0.5 * (low + high)
            mixed_KJ = weight * cost_KJ + (1 - weight) * share_KJ
            pick_K = np.argmin(mixed_KJ, axis=1)
            cost, share = float(np.sum(cost_KJ[clients, pick_K])), float(np.sum(share_KJ[clients, pick_K]))
            if weight * cost + (1 - weight) * share > 1 + 1e-9:
                return None
            if cost <= 1 and share <= 1:
                break
            low, high = (weight, high) if cost > share else (low, weight)
        share_K, total = share_KJ[clients, pick_K], float(np.sum(share_KJ[clients, pick_K]))
        return Pick(cut_KJ[clients, pick_K], share_K / total if total > 0 else None)


def _nearest(found: list[tuple[float, IntArray]]) -> tuple[Pick, ...]:
    """The few different choices with the least estimates."""
    kept: dict[bytes, Pick] = {}
    for _, choice_K in sorted(found, key=lambda item: item[0]):
        kept.setdefault(choice_K.tobytes(), Pick(choice_K))
        if len(kept) == 4:
            break
    return tuple(kept.values())
