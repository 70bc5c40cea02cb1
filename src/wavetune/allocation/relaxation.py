"""Lower bounds where every client may choose its own cut, and the choices that they suggest.

Claim: in a plan whose last activations arrive at U, client k with cut c needs a rate need / (U - ready) that takes at
least V_kc(U) of the main band (`rate_costs`), and together at most 1. With B when the last backward pass is done after
the server, any multiplier mu >= 0 gives for the rest of the step
    min over B of  B + sum_k min over cuts with back_kc <= B of [work_kc + mu V_kc(U)]  -  mu.
V decreases in U, so that V at the end of an interval and U at its start bound the whole interval; the intervals are
split where the bound is least. Where clients share the server, a step of T seconds needs shares of band and server,
    sum_k min over cuts and airtimes of [lambda V + (1 - lambda) work / (T - ready - airtime - back)] <= 1
for every lambda between 0 and 1: the least T not refuted is the bound.
Shape suffixes: K clients, C cuts, J rates.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from wavetune.allocation.delay import transfer_s
from wavetune.allocation.problem import IntArray
from wavetune.allocation.rate_costs import RateCosts
from wavetune.units import Array

_SAFE = 1 - 1e-9


@dataclass(frozen=True, eq=False)
class Choices:
    """Seconds of every cut in a step, and the rate-seconds to send (bit/Hz); not allowed where `back_s_KC` is infinite.

    `back_s_KC` counts from the server's end to the end of the backward pass; no step has it below `least_back_s` at the
    last client. Where clients share the server and the way back is priced, it comes on top: bits, and the rate of each
    subchannel.
    """

    ready_s_KC: Array
    back_s_KC: Array
    work_s_KC: Array
    need_KC: Array
    least_back_s: float = 0.0
    down_bits_KC: Array | None = None
    down_bit_per_s_KM: Array | None = None


class Pick(NamedTuple):
    """A choice per client (column of its cut) and, where the server is shared, shares that go with it."""

    choice_K: IntArray
    share_K: Array | None = None


@dataclass(frozen=True)
class Bound:
    """No step is shorter than `step_s`; `picks` came close in the relaxation."""

    step_s: float
    picks: tuple[Pick, ...]


def bound_together(choices: Choices, costs: RateCosts, beat_s: float, intervals: int, gap: float) -> Bound:
    """Least step where the server works on all batches together; at most `beat_s`, what is of interest.

    Args:
        choices: what clients may choose.
        costs: of rates in the main band.
        beat_s: a known step; longer ones are of no interest.
        intervals: at most so many of U are looked at.
        gap: it stops where the bound is within this share of `beat_s`.
    """
    least_K = np.min(np.where(np.isfinite(choices.back_s_KC), choices.ready_s_KC, np.inf), axis=1)
    rest_s = float(np.sum(np.min(choices.work_s_KC, axis=1))) + choices.least_back_s
    low_s, high_s = float(np.max(least_K)), beat_s - rest_s
    if not high_s > low_s:
        return Bound(min(beat_s, low_s + rest_s) * _SAFE, ())
    order = np.argsort(choices.back_s_KC, axis=1, kind="stable")
    names = ("ready_s_KC", "back_s_KC", "work_s_KC", "need_KC")
    arrays = {name: np.take_along_axis(getattr(choices, name), order, axis=1) for name in names}
    by_back = replace(choices, **arrays)
    found: list[tuple[float, IntArray]] = []

    def look(start_s: float, end_s: float) -> tuple[float, float, float]:
        rest_s, picks = _rest_s(by_back, costs, end_s)
        found.extend((end_s + rest_s, np.take_along_axis(order, pick[:, None], axis=1)[:, 0]) for pick in picks)
        return start_s + rest_s, start_s, end_s

    edges_s = low_s + (high_s - low_s) * np.linspace(0.0, 1.0, 9) ** 2
    boxes = [look(float(a), float(b)) for a, b in itertools.pairwise(edges_s)]
    heapq.heapify(boxes)
    for _ in range(intervals):
        bound_s, start_s, end_s = boxes[0]
        if bound_s >= beat_s * (1 - gap):
            break
        heapq.heappop(boxes)
        middle_s = 0.5 * (start_s + end_s)
        for half in ((start_s, middle_s), (middle_s, end_s)):
            heapq.heappush(boxes, look(*half))
    return Bound(min(boxes[0][0], beat_s) * _SAFE, _nearest(found))


def _rest_s(choices: Choices, costs: RateCosts, up_s: float) -> tuple[float, list[IntArray]]:
    """Bound on what follows the last activations, if these arrive by `up_s`; and the cuts at the best multipliers.

    The cuts of every client stand in ascending order of `back_s_KC`.
    """
    left_s_KC = up_s - choices.ready_s_KC
    rate_KC = np.where(choices.need_KC > 0, choices.need_KC / np.maximum(left_s_KC, 1e-300), 0.0)
    cost_KC = costs.at(np.where(left_s_KC > 0, rate_KC, np.where(choices.need_KC > 0, np.inf, 0.0)))
    cost_KC = np.where((left_s_KC < 0) | np.isinf(choices.back_s_KC), np.inf, cost_KC)
    possible_KC = np.isfinite(cost_KC)
    if not np.all(np.any(possible_KC, axis=1)):
        return np.inf, []
    K, C = cost_KC.shape
    first_K = np.argmax(possible_KC, axis=1)
    least_back_s = max(choices.least_back_s, float(np.max(choices.back_s_KC[np.arange(K), first_K])))
    sorted_KC = np.argsort(choices.back_s_KC, axis=None, kind="stable")
    back_s = choices.back_s_KC.ravel()[sorted_KC]
    usable = possible_KC.ravel()[sorted_KC]
    usable_back_s = np.where(np.isfinite(back_s), np.maximum(back_s, least_back_s), np.inf)
    after = np.arange(int(C)) > first_K[:, None]
    finite_cost_KC = np.where(possible_KC, cost_KC, 0.0)

    def at(mu: float) -> tuple[float, float, IntArray]:
        price_KC = np.where(possible_KC, choices.work_s_KC + mu * finite_cost_KC, np.inf)
        best_KC = np.minimum.accumulate(price_KC, axis=1)
        start_s = float(np.sum(best_KC[np.arange(K), first_K]))
        before_KC = np.concatenate((best_KC[:, :1], best_KC[:, :-1]), axis=1)
        change_KC = np.subtract(best_KC, before_KC, out=np.zeros((K, C)), where=after)
        total = start_s + np.cumsum(change_KC.ravel()[sorted_KC])
        # Ties in `back` belong together: the total behind the last of them counts, and it is the least.
        value = np.where(usable, usable_back_s + total, np.inf)
        place = int(np.argmin(value))
        limit_s = usable_back_s[place]
        pick = np.argmin(np.where(choices.back_s_KC <= limit_s, price_KC, np.inf), axis=1)
        used = float(np.sum(finite_cost_KC[np.arange(K), pick]))
        return float(value[place]) - mu, used - 1.0, pick

    return _best_multiplier(at, up_s)


def _best_multiplier(
    at: Callable[[float], tuple[float, float, IntArray]], scale_s: float
) -> tuple[float, list[IntArray]]:
    """Largest value of a concave function of mu >= 0 that `at` gives with its slope, and the picks beside the peak."""
    best_s, over, pick = at(0.0)
    if over <= 0:
        return best_s, [pick]
    picks, low, high = [pick], np.log(1e-6 * scale_s), np.log(1e3 * scale_s)
    for _ in range(24):
        middle = 0.5 * (low + high)
        value_s, over, pick = at(float(np.exp(middle)))
        best_s = max(best_s, value_s)
        if over > 0:
            low = middle
        else:
            high = middle
            picks = [pick]
    return best_s, picks


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
