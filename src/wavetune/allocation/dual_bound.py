"""Compiled dual bound on a band's delay: what all clients' cheapest bundles prove together, and how prices are moved.

The claim and one client's bundle stand in `prices`. The multipliers that price a client's bundle at one delay prove
something at every delay, as the delay enters through the client's rate alone: a tangent for each side.
Shape suffixes: K clients, M subchannels, M1 subchannels and the total power, K2 both sides of a client's sets.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from wavetune.allocation.feasibility import match_subchannels
from wavetune.allocation.gains import NO_GAIN_LOG2
from wavetune.allocation.prices import (
    LOG_2,
    NOT_SLOW,
    Bundle,
    ClientPrices,
    Prices,
    Scratch,
    Wanted,
    Weights,
    best_prices,
    heard_by,
    new_scratch,
    sorted_weights,
)
from wavetune.allocation.problem import BoolArray, IntArray
from wavetune.allocation.water_filling import BandProblem, kernel, optimal_power, part, vital_ones
from wavetune.units import Array

_MOST_CHANGE = 0.5
_LEAST_WEIGHT = 1e-10  # Over the number of weights: what a multiplicative step can still recover from.
_PROGRESS, _PATIENCE = 0.1, 5  # A trial is given up after so many iterations that did not close this share of it.
_SPLITS = 3  # How often a client's count is moved in one evaluation.
_IN_VAIN = 4  # Trials, each halfway down from the last, after which prices that prove nothing are left.
_POWER_SHARES = (0.1, 0.5, 0.2, 0.05, 0.02)  # Of all prices, with which they begin anew.
_FLAT = 0.01  # by which log gains of a client differ that count as equal.
_SPENT = 0.9  # Of the total power, from which on it has the price that suits the owners.
_ASIDE, _HALVINGS = 0.1, 20  # Of all prices, off the subchannels of which too many need one; of delays looked at.
_NOTHING = -1e9  # An excess that any evaluation improves on.


class Tangents(NamedTuple):
    """What an evaluation proves at every delay: per client and side (at most n subchannels, more) a line in its rate.

    The sides' bundles cost at least value_K2 + rate_price_K2 * (rate - rate_K); rounding hides at most 1e-13 of
    those costs, of rate_price_K2 * rate and of unit_K2.
    """

    value_K2: Array
    rate_price_K2: Array
    unit_K2: Array
    rate_K: Array


Work = tuple[Scratch, Scratch]  # for both sides of a client's sets


@part
def new_work(problem: BandProblem) -> Work:
    """Scratch space for the subchannels of a problem."""
    M = problem.log_KM.shape[1]
    return new_scratch(M, problem.steps), new_scratch(M, problem.steps)


@part
def add_use(bundle: Bundle, scratch: Scratch, use_M1: Array) -> None:
    """Add a bundle's use of subchannels and power."""
    for j in range(bundle.num_below):
        use_M1[scratch.below[j]] += bundle.share_below
    for j in range(bundle.num_above):
        use_M1[scratch.above[j]] += 1.0 - bundle.share_below
    use_M1[-1] += bundle.power_w


@part
def cheapest_bundle(
    problem: BandProblem,
    prices: Prices,
    weights: Weights,
    k: int,
    delay: float,
    latest: float,
    work: Work,
    tangents: Tangents,
) -> tuple[Bundle, int]:
    """Cheapest bundle of client k at a delay and its side (0 for at most n subchannels); fills its tangents.

    The tangents hold for delays up to `latest`. The weights are those of the prices.
    """
    M = problem.log_KM.shape[1]
    watt_price = float(prices.weight_M1[M]) / problem.total_w
    rate, side = problem.need_K[k] / (delay - problem.ready_K[k]), -1
    ask = float(problem.ask_K[k]) if len(problem.ask_K) > 0 else 0.0
    chosen, back_M = Bundle(np.inf, 0.0, 0.0, 0, 0, 0.0, 0.0), problem.back_KM[k] if ask > 0.0 else weights.weight_M
    tangents.rate_K[k], heard = rate, heard_by(problem, k)
    for scratch in work:
        scratch.num_vital[0] = vital_ones(problem, k, latest, scratch.vital)
    for _ in range(_SPLITS):
        n, side = int(prices.count_K[k]), -1
        tangents.value_K2[k, 0], tangents.rate_price_K2[k, 0] = np.inf, 0.0
        for more in range(1, -1, -1):
            if n + more == 0:
                continue
            wanted = Wanted(rate, ask, watt_price, n + more, more == 1, 1e-5 / len(problem.need_K), NOT_SLOW)
            back_price = float(prices.back_price_K2[k, more]) if ask > 0.0 else 0.0
            start = ClientPrices(float(prices.level_K2[k, more]), float(prices.dearer_K2[k, more]), back_price)
            bundle, found = best_prices(
                heard, weights, back_M, float(problem.cap_w_K[k]), problem.limit, wanted, start, work[more]
            )
            prices.level_K2[k, more], prices.dearer_K2[k, more] = found.level, found.dearer
            if ask > 0.0:
                prices.back_price_K2[k, more] = found.back_price
            rate_price = found.level * watt_price * found.dearer * LOG_2
            tangents.value_K2[k, more], tangents.rate_price_K2[k, more] = bundle.value, rate_price
            unit = (
                rate_price * 100.0 * (n + 1) + watt_price * found.dearer * problem.cap_w_K[k] + found.back_price * ask
            )
            tangents.unit_K2[k, more] = unit
            if side < 0 or bundle.value < chosen.value:
                chosen, side = bundle, more
        if (side == 0 or chosen.size <= n + 1 + 1e-9) and (side == 1 or chosen.size >= n - 1e-9):
            break
        # The better side's sets would rather be larger or smaller than they may: the split belongs elsewhere.
        prices.count_K[k] = int(chosen.size)
    return chosen, side


@part
def evaluate(
    problem: BandProblem,
    prices: Prices,
    delay: float,
    latest: float,
    work: Work,
    tangents: Tangents,
    use_M1: Array,
) -> float:
    """What the cheapest bundles cost above 1 at a delay, less a slack for rounding; also the tangents that prove it.

    These hold for delays up to `latest`. `use_M1` receives the bundles' use of each subchannel and of the total power
    (W): the excess's supergradient.
    """
    weights = sorted_weights(problem, prices.weight_M1[:-1])
    for i in range(len(use_M1)):
        use_M1[i] = 0.0
    for k in range(len(problem.need_K)):
        if problem.need_K[k] > 0.0:
            bundle, side = cheapest_bundle(problem, prices, weights, k, delay, latest, work, tangents)
            add_use(bundle, work[side], use_M1)
    return excess_at(problem, tangents, delay)


@part
def excess_at(problem: BandProblem, tangents: Tangents, delay: float) -> float:
    """What the tangents prove that the cheapest bundles cost above 1 at a delay, less a slack for rounding."""
    total, magnitude = -1.0, 1.0
    for k in range(len(problem.need_K)):
        if problem.need_K[k] > 0.0:
            rate = problem.need_K[k] / max(delay - problem.ready_K[k], 1e-300)
            least, hidden = np.inf, 0.0
            for side in range(2):
                rate_price = tangents.rate_price_K2[k, side]
                value = tangents.value_K2[k, side] + rate_price * (rate - tangents.rate_K[k])
                if np.isnan(value):
                    return -np.inf
                if value < least:
                    least, hidden = value, rate_price * rate + tangents.unit_K2[k, side] + abs(value)
            total += least
            magnitude += hidden
    return total - 1e-13 * magnitude


@part
def largest_refuted(problem: BandProblem, tangents: Tangents, low: float, high: float) -> float:
    """Largest delay up to `high` that the tangents prove impossible; `low`, proved before, where none is above it."""
    if excess_at(problem, tangents, high) > 0.0:
        return high
    width = high - low
    while high - low > 1e-6 * width:
        middle = 0.5 * (low + high)
        if middle <= low or middle >= high:
            break
        if excess_at(problem, tangents, middle) > 0.0:
            low = middle
        else:
            high = middle
    return low


@kernel
def excess(problem: BandProblem, prices: Prices, delay: float) -> tuple[float, Array, Array]:
    """What the cheapest bundles cost above 1 at a delay (if positive, none meets it), their use, the rates' prices."""
    K, M = problem.log_KM.shape
    use_M1, work, tangents = np.zeros(M + 1), new_work(problem), new_tangents(K)
    over = evaluate(problem, prices, delay, delay, work, tangents, use_M1)
    return over, use_M1, tangents.rate_price_K2


@kernel
def provable_delay(problem: BandProblem, prices: Prices, low: float, goal: float) -> float:
    """Largest delay up to `goal` that the prices prove impossible; `low`, proved before, where no more is found."""
    K, M = problem.log_KM.shape
    use_M1, work, tangents = np.zeros(M + 1), new_work(problem), new_tangents(K)
    trial, in_vain = goal, 0
    for _ in range(12):
        evaluate(problem, prices, trial, goal, work, tangents, use_M1)
        proved = largest_refuted(problem, tangents, low, goal)
        in_vain = 0 if proved > low else in_vain + 1
        if proved >= goal or low < proved <= low + 1e-3 * (goal - low) or in_vain == _IN_VAIN:
            return proved
        # Tangents drawn where they prove most; halfway down where they prove nothing yet.
        trial = proved if proved > low else 0.5 * (low + trial)
        low = proved
    return low


@kernel
def bundles(problem: BandProblem, prices: Prices, delay: float) -> tuple[Array, Array]:
    """Share of each subchannel in each client's cheapest bundle at a delay, [K, M], and the clients' strain, [K].

    A client is strained if its bundle costs much and its own cap makes power much dearer to it than the total does.
    """
    K, M = problem.log_KM.shape
    share_KM, strain_K, use_M1 = np.zeros((K, M)), np.zeros(K), np.zeros(M + 1)
    work, tangents, weights = new_work(problem), new_tangents(K), sorted_weights(problem, prices.weight_M1[:-1])
    for k in range(K):
        if problem.need_K[k] > 0.0:
            for i in range(M + 1):
                use_M1[i] = 0.0
            bundle, side = cheapest_bundle(problem, prices, weights, k, delay, delay, work, tangents)
            add_use(bundle, work[side], use_M1)
            strain_K[k] = min(bundle.value, 1.0) * prices.dearer_K2[k, side]
            for i in range(M):
                share_KM[k, i] = use_M1[i]
    return share_KM, strain_K


@kernel
def raise_bound(
    problem: BandProblem, prices: Prices, low: float, goal: float, trial_step: float, tolerance: float, iterations: int
) -> tuple[float, float]:
    """Raise a proved lower bound `low` on the delay towards `goal` by moving the prices.

    Each iteration prices the bundles at a trial delay, `trial_step` above the bound, raises the bound as far as their
    tangents prove, and moves the prices along the averaged supergradient by Polyak's step towards a proof of the trial.
    Where that stalls the step is halved. Ends at the goal or at a step of `tolerance`. Returns the bound and the step
    (s); `prices` keeps what came closest at the last trial.
    """
    K, M = problem.log_KM.shape
    weight_M1, use_M1, step_M1 = prices.weight_M1, np.zeros(M + 1), np.zeros(M + 1)
    best_M1, work, tangents = weight_M1.copy(), new_work(problem), new_tangents(K)
    trial_step, best, stalled = min(trial_step, goal - low), _NOTHING, 0
    trial = next_trial(low, trial_step, goal)
    for _ in range(iterations):
        over = evaluate(problem, prices, trial, goal, work, tangents, use_M1)
        low = largest_refuted(problem, tangents, low, goal)
        if low >= goal:
            return low, trial_step
        if low >= trial:
            trial, best, stalled = next_trial(low, trial_step, goal), _NOTHING, 0
            copy_floats(weight_M1, best_M1)
            continue
        stalled = 0 if over > best + _PROGRESS * abs(best) else stalled + 1
        if over > best:
            best = over
            copy_floats(weight_M1, best_M1)
        if stalled >= _PATIENCE:
            trial_step = 0.5 * min(trial_step, trial - low)
            if trial_step <= tolerance:
                break
            trial, best, stalled = next_trial(low, trial_step, goal), _NOTHING, 0
            copy_floats(best_M1, weight_M1)
            for i in range(M + 1):
                step_M1[i] = 0.0
            continue
        for i in range(M + 1):
            violation = (use_M1[i] if i < M else use_M1[i] / problem.total_w) - 1.0
            step_M1[i] = 0.5 * (violation + step_M1[i])
        move_weights(weight_M1, step_M1, -over)
    copy_floats(best_M1, weight_M1)
    return low, trial_step


@part
def next_trial(low: float, trial_step: float, goal: float) -> float:
    """Delay to try next: `trial_step` above the bound, but at most four times it, and not above the goal."""
    return min(low + min(trial_step, 3.0 * low), goal)


@part
def move_weights(weight_M1: Array, step_M1: Array, rise: float) -> None:
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
def new_tangents(K: int) -> Tangents:
    """Tangents that prove nothing."""
    return Tangents(np.zeros((K, 2)), np.zeros((K, 2)), np.zeros((K, 2)), np.zeros(K))


def uniform_prices(problem: BandProblem, owner_M: IntArray, low_s: float, delay_s: float) -> Prices:
    """Equal prices on all subchannels and a price of power that suit the given owners.

    Where these spend all of the total power, its share of all prices is what their subchannels' worth in watts leaves
    to it, unless gains are flat; else it is set by bisection to prove most at a delay just below `delay_s`.
    """
    M, prices = problem.log_KM.shape[1], priced_evenly(problem, owner_M, 0.5)
    power_share = spent_share(problem, owner_M)
    if power_share > 0.0:
        prices.weight_M1[:M], prices.weight_M1[M] = (1.0 - power_share) / M, power_share
        return prices
    low, high = -20.0, 25.0
    for _ in range(10):
        log_odds = 0.5 * (low + high)
        power_share = 1.0 / (1.0 + np.exp(-log_odds))
        prices.weight_M1[:M] = (1.0 - power_share) / M
        prices.weight_M1[M] = power_share
        over, use_M1, _ = excess(problem, prices, low_s + 0.999 * (delay_s - low_s))
        if over > 0:
            break
        low, high = (log_odds, high) if use_M1[M] / problem.total_w > np.mean(use_M1[:M]) else (low, log_odds)
    return prices


def spent_share(problem: BandProblem, owner_M: IntArray) -> float:
    """The total power's share of its own watts and all that owned subchannels save; 0 where some power is left over, or
    where gains are flat, so that counting proves most.
    """
    if np.all(np.abs(problem.log_KM - problem.log_KM[:, :1]) < _FLAT):
        return 0.0
    _, power_w_M, level_K = optimal_power(problem, owner_M)
    owned = np.flatnonzero((owner_M >= 0) & (power_w_M > 0))
    if not np.sum(power_w_M) >= _SPENT * problem.total_w:
        return 0.0
    rate_M = np.log1p(power_w_M[owned] / problem.inverse_KM[owner_M[owned], owned])
    saved_w = np.sum(level_K[owner_M[owned]] * rate_M - power_w_M[owned])
    return float(problem.total_w / (problem.total_w + saved_w))


def priced_evenly(problem: BandProblem, owner_M: IntArray, power_share: float) -> Prices:
    """Equal prices on all subchannels and a share of all prices on the power, for clients as with given owners."""
    K, M = problem.log_KM.shape
    level_K = optimal_power(problem, owner_M)[2]
    count_K = np.bincount(owner_M[owner_M >= 0], minlength=K)
    weight_M1 = np.append(np.full(M, (1.0 - power_share) / M), power_share)
    return Prices(weight_M1, count_K, np.stack([level_K, level_K], axis=1), np.ones((K, 2)), np.zeros((K, 2)))


def raise_afresh(
    problem: BandProblem, owner_M: IntArray, low_s: float, goal_s: float, tolerance_s: float, iterations: int
) -> tuple[float, float, Prices | None]:
    """`raise_bound` from equal prices with several shares of the power: the bound, its step (s), and their prices.

    Steps change that share slowly, and one that became next to nothing does not come back. Where there are subchannels
    of which more clients than these need one, nearly all of the prices is on these first. No prices where none of them
    leads further.
    """
    best, crowded_M = (low_s, 0.0, None), crowded(problem, low_s, goal_s)
    starts = [priced_evenly(problem, owner_M, power_share) for power_share in _POWER_SHARES]
    if np.any(crowded_M):
        starts.insert(0, priced_evenly(problem, owner_M, _POWER_SHARES[0]))
        starts[0].weight_M1[:] *= _ASIDE
        starts[0].weight_M1[:-1][crowded_M] += (1.0 - _ASIDE) / np.count_nonzero(crowded_M)
    for prices in starts:
        found_s, step_s = raise_bound(problem, prices, best[0], goal_s, goal_s - best[0], tolerance_s, iterations)
        best = (found_s, step_s, prices) if found_s > best[0] else best
        if found_s >= goal_s:
            break
    return best


def crowded(problem: BandProblem, low_s: float, high_s: float) -> BoolArray:
    """Subchannels of which more clients than there are of these need one each, to meet the latest delay found, [M].

    None where no such delay is found between two of which the former is proved impossible.
    """
    found_M = np.zeros(problem.log_KM.shape[1], np.bool_)
    for _ in range(_HALVINGS):
        middle_s = 0.5 * (low_s + high_s)
        crowded_M = _crowded_at(problem, middle_s)
        found_M, low_s, high_s = (found_M, low_s, middle_s) if crowded_M is None else (crowded_M, middle_s, high_s)
    return found_M


def _crowded_at(problem: BandProblem, delay_s: float) -> BoolArray | None:
    """The same at a delay: whom a matching leaves over are, with all whose subchannels they would take, too many."""
    need_KM = _vital_at(problem, delay_s)
    need_KM = need_KM[np.any(need_KM, axis=1)]
    if len(need_KM) < 2 or np.all((match_K := match_subchannels(need_KM)) >= 0):
        return None
    crowd_K = match_K < 0
    while True:
        crowded_M = np.any(need_KM[crowd_K], axis=0)
        grown_K = crowd_K | crowded_M[match_K]
        if np.array_equal(grown_K, crowd_K):
            return crowded_M
        crowd_K = grown_K


def _vital_at(problem: BandProblem, delay_s: float) -> BoolArray:
    """The subchannels of which a client needs one to meet a delay, as of `vital_ones`; none where it is not known."""
    vital_KM, fewest_K = np.zeros(problem.log_KM.shape, np.bool_), np.full(len(problem.need_K), np.inf)
    rate_K = problem.need_K / np.maximum(delay_s - problem.ready_K, 1e-300)
    for vital, needed_K in ((problem.vital, rate_K), (problem.vital_back, problem.ask_K)):
        if len(vital.without_KJ) > 0:
            lacks_KJ = (vital.without_KJ < needed_K[:, None] * (1 - 1e-9)) & (problem.need_K > 0)[:, None]
            count_K = np.where(np.any(lacks_KJ[:, 1:], axis=1), 1 + np.argmax(lacks_KJ[:, 1:], axis=1), np.inf)
            fewer, place_J = np.flatnonzero(count_K < fewest_K), np.arange(vital.strongest_KJ.shape[1], dtype=np.int64)
            vital_KM[fewer] = False
            vital_KM[fewer[:, None], vital.strongest_KJ[fewer]] = place_J < count_K[fewer, None]
            fewest_K = np.minimum(fewest_K, count_K)
    return vital_KM


def rounded_owners(problem: BandProblem, prices: Prices, delay_s: float) -> IntArray:
    """Each subchannel to the client whose cheapest bundle at a delay holds most of it; -1 where none does."""
    share_KM, _ = bundles(problem, prices, delay_s)
    return np.where(np.max(share_KM, axis=0) > 0, np.argmax(share_KM, axis=0), -1)


def most_divided(problem: BandProblem, prices: Prices, delay_s: float) -> tuple[int, int]:
    """Client and subchannel to branch on; -1 where every subchannel is heard by one client at most.

    The client's cheapest bundle is a mixture of two sets, of which one has the subchannel and one has not; the sets
    share evenly, the client is strained, and of several such subchannels it is the strongest. Where all bundles are
    whole it is the subchannel that most clients want at once.
    """
    open_KM = (problem.log_KM > NO_GAIN_LOG2) & (problem.need_K > 0)[:, None]
    open_KM &= np.sum(open_KM, axis=0) > 1
    if not np.any(open_KM):
        return -1, -1
    # Where numbers are so far apart that a bundle has none, branching elsewhere is as good.
    share_KM, strain_K = (np.nan_to_num(x, posinf=1e300) for x in bundles(problem, prices, delay_s))
    score_KM = np.where(open_KM, np.minimum(share_KM, 1 - share_KM) * strain_K[:, None], 0.0)
    if np.max(score_KM) <= 1e-12:
        wanted_M = np.where(np.any(open_KM, axis=0), np.sum(share_KM, axis=0), -1.0)
        score_KM = np.where(open_KM & (np.arange(len(wanted_M)) == np.argmax(wanted_M)), 1.0 + share_KM, 0.0)
    strongest = np.argmax(np.where(score_KM >= np.max(score_KM) * (1 - 1e-6), problem.log_KM, -np.inf))
    k, i = np.unravel_index(strongest, score_KM.shape)
    return int(k), int(i)
