"""Bound and owners of a small band by set packing: each client one set of subchannels, disjoint and within the power.

At a fixed delay t a client can choose any set S with which it meets t within its cap. If the linear program

    max sum_S x_S   s.t.  each client has at most one set, each subchannel is in at most one, sum_S P_k(S) x_S <= P

is below K, no plan meets t, and its duals w_i, mu are prices as in `prices`: all clients' cheapest sets cost more than
all subchannels and the total power. Here the cheapest set is exact: with multipliers (nu, alpha) every subchannel has
a reduced cost c_i, and a set that differs from {c_i < 0} costs at least the sum of |c_i| over the differences more, so
that only the few sets within the gap of the multipliers are evaluated. The program is solved by column generation.
Shape suffixes: K clients, M subchannels, M1 for the subchannels and the total power, S sets.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from wavetune.allocation.gains import NO_GAIN_LOG2
from wavetune.allocation.ladder import stepped_power
from wavetune.allocation.prices import (
    LOG_2,
    NEVER,
    NOT_SLOW,
    Bundle,
    ClientPrices,
    Scratch,
    Slow,
    Wanted,
    Weights,
    best_prices,
    heard_by,
    market,
    new_scratch,
    subchannel_costs,
    tangent,
)
from wavetune.allocation.problem import BoolArray, IntArray
from wavetune.allocation.water_filling import (
    BandProblem,
    Vital,
    kernel,
    least_power,
    most_rate,
    part,
    vital_ones,
)
from wavetune.units import Array

_PROGRAMS, _MOST_SETS, _MOST_HEARD = 60, 2_000, 4_000
_SPARSE = 0.25  # of all pairs of a client and a subchannel
_CHOICES = 500  # of rungs for one set
_CLOSE = 1e-9  # Share of a cost at which a bound is as good as it
_BEFORE_SPLIT = 30  # sets that are looked at before sets are bounded by their size
_START = ClientPrices(1.0, 1.0, 0.0)
_SURE = 1e-7  # Share of an excess that rounding cannot feign.


class Packing(NamedTuple):
    """What a delay's linear programs say: prices that refute it, or owners that the solution suggests instead."""

    weight_M1: Array | None
    owner_M: IntArray
    programs: int


@part
def put(target_M: BoolArray, source_M: BoolArray) -> None:
    """Copy all values; an assignment of a slice compiles a second longer, for the words of its errors."""
    for i in range(len(source_M)):
        target_M[i] = source_M[i]


@part
def priced(
    problem: BandProblem, weight_M1: Array, k: int, delay: float, n: int, more: bool, slow: Slow, start: ClientPrices,
    scratch: Scratch,
) -> tuple[Bundle, ClientPrices]:  # fmt: skip
    """Client k's cheapest sets of at most n subchannels, or with `more` of at least n, by multipliers near others."""
    M = problem.log_KM.shape[1]
    rate, ask = problem.need_K[k] / (delay - problem.ready_K[k]), problem.ask_K[k] if len(problem.ask_K) > 0 else 0.0
    wanted = Wanted(rate, ask, float(weight_M1[M]) / problem.total_w, n, more, 1e-7, slow)
    back_M = problem.back_KM[k] if len(problem.back_KM) > 0 else weight_M1
    return best_prices(
        heard_by(problem, k),
        Weights(weight_M1[:M], 0.0, np.zeros(0, np.int64)),
        back_M,
        float(problem.cap_w_K[k]),
        problem.limit,
        wanted,
        start,
        scratch,
    )


@part
def multipliers(prices: ClientPrices, watt_price: float, multiplier_3: Array) -> None:
    """Set the multipliers on a client's rate (nu), cap (alpha) and way back (delta) that its prices stand for."""
    multiplier_3[0], multiplier_3[1] = (
        prices.level * watt_price * prices.dearer * LOG_2,
        watt_price * (prices.dearer - 1),
    )
    multiplier_3[2] = prices.back_price


@part
def reduced_costs(
    problem: BandProblem, weight_M1: Array, k: int, delay: float, slow: Slow, multiplier_3: Array, cost_M: Array
) -> float:
    """Set each subchannel's cost to client k less its worth at multipliers; what it pays by these without any."""
    M = len(cost_M)
    rate, ask = problem.need_K[k] / (delay - problem.ready_K[k]), problem.ask_K[k] if len(problem.ask_K) > 0 else 0.0
    rate_price, cap_price, back_price = multiplier_3
    at = market(rate_price, weight_M1[M] / problem.total_w + cap_price, problem.limit)
    subchannel_costs(problem.log_KM[k], problem.inverse_KM[k], weight_M1[:M], at, problem.steps, cost_M)
    for i in range(M if back_price > 0.0 else 0):
        if cost_M[i] < NEVER:
            cost_M[i] -= back_price * problem.back_KM[k, i]
    up, _ = tangent(slow.up, rate_price, rate, slow.most_up)
    back, _ = tangent(slow.back, back_price, ask, slow.most_back)
    return up - cap_price * problem.cap_w_K[k] + back


@part
def best_rate(
    problem: BandProblem, k: int, owned: IntArray, count: int, least: float, slow: Slow, watt_price: float
) -> float:
    """Client k's rate (bit/s/Hz), no less than `least` where it can, with the least of what slowness and power cost."""
    log_M, inverse_M, limit = problem.log_KM[k], problem.inverse_KM[k], problem.limit
    high = most_rate(log_M, inverse_M, owned, count, min(problem.cap_w_K[k], problem.total_w), limit) * (1 - 1e-12)
    low, high = least, min(high, slow.most_up)
    if high <= low:
        return low
    for turn in range(40):
        rate = high if turn == 0 else 0.5 * (low + high)
        _, level = least_power(log_M, inverse_M, owned, count, rate, limit)
        if watt_price * level * LOG_2 <= slow.up / rate**2:
            if turn == 0:
                break
            low = rate
        else:
            high = rate
    return high


@part
def set_cost(
    problem: BandProblem,
    weight_M1: Array,
    k: int,
    delay: float,
    inside_M: BoolArray,
    strongest: IntArray,
    owned: IntArray,
    most: float,
    slow: Slow,
    rung_M: IntArray,
) -> tuple[float, float]:
    """What a set costs client k that meets a delay with it, infinite beyond its cap or `most`, and the power (W)."""
    count, cost, back, rate = 0, 0.0, 0.0, problem.need_K[k] / (delay - problem.ready_K[k])
    asked = len(problem.ask_K) > 0
    for i in strongest:
        if inside_M[i]:
            owned[count] = i
            count += 1
            cost += weight_M1[i]
            if asked:
                back += problem.back_KM[k, i]
    if asked and back < problem.ask_K[k] * (1.0 - 1e-9):
        return np.inf, 0.0
    log_M, inverse_M, watt_price = problem.log_KM[k], problem.inverse_KM[k], weight_M1[-1] / problem.total_w
    if slow.back > 0.0:
        cost += slow.back / min(back, slow.most_back) if back > 0.0 else np.inf
    if slow.up > 0.0:
        rate = best_rate(problem, k, owned, count, rate, slow, watt_price)
        cost += slow.up / rate if rate > 0.0 else np.inf
    power_w, _ = least_power(log_M, inverse_M, owned, count, rate, problem.limit)
    for turn in range(2 if len(problem.steps.snr_I) > 0 else 0):  # the linear relaxation first, as it often is enough
        if power_w > problem.cap_w_K[k] or cost + watt_price * power_w >= most:
            break
        choices = turn * _CHOICES
        _, power_w, _ = stepped_power(problem.steps, log_M, inverse_M, owned, count, rate, choices, rung_M)
    cost += watt_price * power_w
    return cost if power_w <= problem.cap_w_K[k] and cost < most else np.inf, power_w


@part
def split_cost(
    problem: BandProblem, weight_M1: Array, k: int, delay: float, n: int, slow: Slow, scratch: Scratch
) -> float:
    """Bound of what client k pays, by its sets of fewer than n subchannels and those of n or more."""
    few = priced(problem, weight_M1, k, delay, n - 1, False, slow, _START, scratch)[0].value if n > 1 else np.inf
    return min(few, priced(problem, weight_M1, k, delay, n, True, slow, _START, scratch)[0].value)


@part
def by_branching(
    problem: BandProblem,
    weight_M1: Array,
    k: int,
    delay: float,
    n: int,
    more: bool,
    nodes: int,
    slow: Slow,
    scratch: Scratch,
    strongest: IntArray,
    set_M: BoolArray,
    best: float,
    best_w: float,
) -> tuple[float, float, float]:
    """Bound of what client k's sets of at most n subchannels, or with `more` of at least n, cost.

    Also cost and power of the best set known, which `set_M` has or receives.

    Multipliers mix two sets; of one subchannel in which these differ all sets have it, or have it not. One that they
    have weighs nothing, as it is paid in any case, and one that they have not weighs too much.
    """
    M, own_M1, trial_M = len(set_M), weight_M1.copy(), np.zeros(len(set_M), np.bool_)
    owned, rung_M = np.zeros(M, np.int64), np.zeros(M, np.int64)
    item_D, turn_D, value_D = np.zeros(M + 1, np.int64), np.zeros(M + 1, np.int64), np.zeros(M + 1)
    paid, least, depth, seen, prices = 0.0, np.inf, 0, 0, _START
    while True:
        bundle, prices = priced(problem, own_M1, k, delay, n, more, slow, prices, scratch)
        value, item, seen = float(paid + bundle.value), -1, seen + 1
        if value < best * (1.0 - _CLOSE):
            for side in range(2):
                count, chosen = (bundle.num_below, scratch.below) if side == 0 else (bundle.num_above, scratch.above)
                for i in range(M):
                    trial_M[i] = False
                for j in range(count):
                    trial_M[chosen[j]] = True
                cost, power_w = set_cost(problem, weight_M1, k, delay, trial_M, strongest, owned, best, slow, rung_M)
                if cost < best:
                    best, best_w = cost, power_w
                    put(set_M, trial_M)
            for j in range(bundle.num_below):  # what is only in the other set is still marked
                trial_M[scratch.below[j]] = not trial_M[scratch.below[j]]
            for turn in range(2):  # any other only where they do not differ
                for i in strongest:
                    if item < 0 and (trial_M[i] or turn == 1) and 0.0 < own_M1[i] < NEVER:
                        item = i
            if item < 0:  # a single set is left
                for i in range(M):
                    trial_M[i] = own_M1[i] == 0.0
                cost, power_w = set_cost(problem, weight_M1, k, delay, trial_M, strongest, owned, best, slow, rung_M)
                if cost < best:
                    best, best_w = cost, power_w
                    put(set_M, trial_M)
            elif seen >= nodes:
                least = min(least, value)
            else:
                item_D[depth], turn_D[depth], value_D[depth] = item, 0, value
                depth += 1
        while depth > 0:
            i, turn = item_D[depth - 1], turn_D[depth - 1]
            if turn > 0 and own_M1[i] == 0.0:
                paid -= weight_M1[i]
            own_M1[i] = weight_M1[i]
            if turn < 2 and value_D[depth - 1] < best * (1.0 - _CLOSE):
                if seen < nodes:
                    break
                least = min(least, value_D[depth - 1])
            depth -= 1
        if depth == 0:
            return min(best, least), best, best_w
        i = item_D[depth - 1]
        if turn_D[depth - 1] == 0:
            own_M1[i] = 0.0
            paid += weight_M1[i]
        else:
            own_M1[i] = NEVER
        turn_D[depth - 1] += 1


@part
def cheapest_set(
    problem: BandProblem,
    weight_M1: Array,
    k: int,
    delay: float,
    most: int,
    slow: Slow,
    scratch: Scratch,
    set_M: BoolArray,
    multiplier_3: Array,
) -> tuple[float, float, float]:
    """Cost of client k's cheapest set, by a depth-first search of changes; cost and power of that in `set_M`.

    The latter is dearer only where more than `most` sets would have to be looked at.
    """
    M = len(set_M)
    cost_M, owned, changes = np.zeros(M), np.zeros(M, np.int64), np.zeros(M + 1, np.int64)
    rung_M = np.zeros(M, np.int64)
    scratch.num_vital[0], proved = 0, -np.inf
    watt_price = float(weight_M1[M]) / problem.total_w
    multipliers(priced(problem, weight_M1, k, delay, 1, True, slow, _START, scratch)[1], watt_price, multiplier_3)
    bound = reduced_costs(problem, weight_M1, k, delay, slow, multiplier_3, cost_M)
    inside_M = cost_M < 0.0
    bound += np.sum(cost_M[inside_M])
    strongest, order, change_M = np.argsort(-problem.log_KM[k]), np.argsort(np.abs(cost_M)), np.abs(cost_M)
    scratch.num_vital[0] = vital_ones(problem, k, delay, scratch.vital)
    if scratch.num_vital[0] > 0:
        proved = priced(problem, weight_M1, k, delay, 1, True, slow, _START, scratch)[0].value
    # A first set: the multipliers' own and, while it does not do, the next cheapest subchannel.
    trial_M, best, best_w = inside_M.copy(), np.inf, 0.0
    for step in range(-1, M):
        if step >= 0:
            if not 0.0 <= cost_M[order[step]] < NEVER:
                continue
            trial_M[order[step]] = True
        best, best_w = set_cost(problem, weight_M1, k, delay, trial_M, strongest, owned, np.inf, slow, rung_M)
        if best < np.inf:
            break
    for step in range(M - 1, -1, -1):  # less that one of its subchannels which it does without
        if trial_M[order[step]] and best < np.inf:
            trial_M[order[step]] = False
            cost, power_w = set_cost(problem, weight_M1, k, delay, trial_M, strongest, owned, best, slow, rung_M)
            if cost < best:
                best, best_w = cost, power_w
            else:
                trial_M[order[step]] = True
    if best < np.inf:
        put(set_M, trial_M)
    depth, spent, place, seen = 0, 0.0, 0, 0
    while best < np.inf:
        if best <= proved * (1.0 + _CLOSE):
            return min(best, proved), best, best_w
        if place < M and spent + change_M[order[place]] < best - bound:
            changes[depth] = place
            depth += 1
            spent += change_M[order[place]]
            inside_M[order[place]] = not inside_M[order[place]]
            cost, power_w = set_cost(problem, weight_M1, k, delay, inside_M, strongest, owned, best, slow, rung_M)
            if cost < best:
                best, best_w = cost, power_w
                put(set_M, inside_M)
            seen += 1
            if seen == _BEFORE_SPLIT:
                size = int(np.sum(set_M))
                proved = max(proved, split_cost(problem, weight_M1, k, delay, size, slow, scratch))
            if seen == most:
                return min(best, max(bound, proved)), best, best_w
            place += 1
        elif depth > 0:
            depth -= 1
            i = order[changes[depth]]
            inside_M[i] = not inside_M[i]
            spent -= change_M[i]
            place = changes[depth] + 1
        else:
            break
    return best, best, best_w


@part
def closed(
    problem: BandProblem,
    weight_M1: Array,
    k: int,
    delay: float,
    nodes: int,
    slow: Slow,
    scratch: Scratch,
    set_M: BoolArray,
    found: tuple[float, float, float],
) -> tuple[float, float, float]:
    """What is found of client k's cheapest set, as by `cheapest_set`, closer by branching where it is a bound."""
    value, best, best_w = found
    if value < best:
        least, size, strongest = np.inf, int(np.sum(set_M)), np.argsort(-problem.log_KM[k])
        scratch.num_vital[0] = vital_ones(problem, k, delay, scratch.vital)
        for n in range(max(size - 1, 1), size + 1):  # smaller sets, and others
            of_size, best, best_w = by_branching(
                problem, weight_M1, k, delay, n, n == size, nodes, slow, scratch, strongest, set_M, best, best_w
            )
            least = min(least, of_size)
        value = min(best, max(value, least))
    return value, best, best_w


@kernel
def cheapest_sets(
    problem: BandProblem, weight_M1: Array, delay: float, most: int
) -> tuple[Array, BoolArray, Array, Array]:
    """Least cost of any set with which each client meets a delay, [K]; such a set, [K, M], its power, [K] (W).

    Also the multipliers on each client's rate (nu), cap (alpha) and way back (delta), [K, 3]. Where more than `most`
    sets would have to be looked at, the cost is a bound, closer where all together might cost more than the weights.
    """
    K, M = problem.log_KM.shape
    value_K, set_KM, power_K, scratch = (
        np.zeros(K),
        np.zeros((K, M), np.bool_),
        np.zeros(K),
        new_scratch(M, problem.steps),
    )
    multiplier_K3, cost_K, enough = np.zeros((K, 3)), np.zeros(K), np.sum(weight_M1)
    for k in range(K):
        if problem.need_K[k] > 0.0:
            value_K[k], cost_K[k], power_K[k] = cheapest_set(
                problem, weight_M1, k, delay, most, NOT_SLOW, scratch, set_KM[k], multiplier_K3[k]
            )
    for k in range(K):
        if np.sum(value_K) <= enough < np.sum(cost_K):
            found = value_K[k], cost_K[k], power_K[k]
            value_K[k], cost_K[k], power_K[k] = closed(
                problem, weight_M1, k, delay, most // M, NOT_SLOW, scratch, set_KM[k], found
            )
    return value_K, set_KM, power_K, multiplier_K3


@kernel
def cheapest_sets_in_time(
    problem: BandProblem, client_J: IntArray, slow_J4: Array, weight_M1: Array, most: int
) -> tuple[Array, BoolArray]:
    """Least costs, [J], and such sets, [J, M], for asks of clients who pay for the time that a set takes.

    Args:
        problem: tables of the clients; of an ask are `need_K` / (1 s - `ready_K`), the rate up, and `ask_K`, that back.
        client_J: whose ask it is.
        slow_J4: the fields of `Slow`.
        weight_M1: prices.
        most: as of `cheapest_sets`.
    """
    J, M = len(client_J), problem.log_KM.shape[1]
    value_J, set_JM, scratch = np.zeros(J), np.zeros((J, M), np.bool_), new_scratch(M, problem.steps)
    multiplier_3 = np.zeros(3)
    for j in range(J):
        k = client_J[j]
        one = BandProblem(
            problem.log_KM[k : k + 1], problem.inverse_KM[k : k + 1], problem.ready_K[j : j + 1],
            problem.need_K[j : j + 1], problem.cap_w_K[k : k + 1], problem.total_w, problem.limit,
            problem.back_KM[k : k + 1], problem.ask_K[j : j + 1], problem.steps,
            Vital(problem.vital.strongest_KJ[k : k + 1], problem.vital.without_KJ[k : k + 1]),
            Vital(problem.vital_back.strongest_KJ[k : k + 1], problem.vital_back.without_KJ[k : k + 1]),
            problem.ranking,
        )  # fmt: skip
        slow = Slow(slow_J4[j, 0], slow_J4[j, 1], slow_J4[j, 2], slow_J4[j, 3])
        value_J[j] = cheapest_set(one, weight_M1, 0, 1.0, most, slow, scratch, set_JM[j], multiplier_3)[0]
    return value_J, set_JM


@kernel
def client_prices(
    problem: BandProblem, weight_M1: Array, k: int, delay: float, n: int, more: bool, slow: Slow
) -> tuple[float, Array, Array]:
    """What client k's sets of at most n subchannels (with `more`: of at least n) cost at least, by multipliers.

    Also the multipliers on its rate, cap and way back, [3], and the share of each subchannel in the sets that are
    cheapest by them, [M].
    """
    M, scratch = problem.log_KM.shape[1], new_scratch(problem.log_KM.shape[1], problem.steps)
    bundle, prices = priced(problem, weight_M1, k, delay, n, more, slow, _START, scratch)
    multiplier_3, share_M = np.zeros(3), np.zeros(M)
    multipliers(prices, float(weight_M1[M]) / problem.total_w, multiplier_3)
    for j in range(bundle.num_below):
        share_M[scratch.below[j]] += bundle.share_below
    for j in range(bundle.num_above):
        share_M[scratch.above[j]] += 1.0 - bundle.share_below
    return bundle.value, multiplier_3, share_M


@kernel
def reduced_costs_of(
    problem: BandProblem, weight_M1: Array, k: int, delay: float, multiplier_3: Array, slow: Slow
) -> tuple[float, Array]:
    """What client k pays by multipliers without a subchannel, and how much more or less with each, [M]."""
    cost_M = np.zeros(problem.log_KM.shape[1])
    return reduced_costs(problem, weight_M1, k, delay, slow, multiplier_3, cost_M), cost_M


def is_small(problem: BandProblem) -> bool:
    """Whether the clients that send hear so few subchannels that packing them takes seconds at most."""
    return bool(np.count_nonzero(problem.log_KM[problem.need_K > 0] > NO_GAIN_LOG2) <= _MOST_HEARD)


def is_sparse(problem: BandProblem) -> bool:
    """Whether the clients that send hear so few subchannels that local searches are stuck and packing is quick."""
    heard_KM = problem.log_KM[problem.need_K > 0] > NO_GAIN_LOG2
    return is_small(problem) and bool(np.count_nonzero(heard_KM) <= _SPARSE * heard_KM.size)


def pack(problem: BandProblem, weight_M1: Array, owner_M: IntArray, delay_s: float, turns: int = _PROGRAMS) -> Packing:
    """Refute a delay by column generation, from given prices on; owners like the given ones where it cannot be.

    Of the last program where `turns` are not enough to tell.
    """
    program = _Program(problem)
    K, smoothing = program.num_senders, 0.5
    trial_M1 = best_M1 = weight_M1 * K
    best_over = -np.inf
    for turn in range(turns):
        value_K, set_KM, power_K, _ = cheapest_sets(problem, trial_M1, delay_s, _MOST_SETS)
        over = float(np.sum(value_K) - np.sum(trial_M1))
        if over > _SURE * K:
            return Packing(trial_M1 / np.sum(trial_M1), owner_M, turn)
        if over > best_over:
            best_over, best_M1 = over, trial_M1
        is_new = program.add(set_KM, power_K)
        if not is_new and smoothing == 0.0:
            break
        smoothing = 0.5 if is_new else 0.0
        served, dual_M1, share_KM = program.solve()
        if served > K - 1e-7 or turn == turns - 1:
            suggested_M = np.where(np.max(share_KM, axis=0) > 0, np.argmax(share_KM, axis=0), owner_M)
            return Packing(None, suggested_M, turn + 1)
        trial_M1 = smoothing * best_M1 + (1 - smoothing) * dual_M1
    return Packing(None, owner_M, turns)


class _Program:
    """The linear program over the sets found so far."""

    def __init__(self, problem: BandProblem) -> None:
        self.problem = problem
        self.senders = np.flatnonzero(problem.need_K > 0)
        self.num_senders = len(self.senders)
        self.columns: dict[tuple[int, bytes], tuple[BoolArray, float]] = {}

    def add(self, set_KM: BoolArray, power_K: Array) -> bool:
        """Add a set of each client; whether any is new."""
        before = len(self.columns)
        for k in self.senders.tolist():
            self.columns[k, set_KM[k].tobytes()] = (set_KM[k].copy(), float(power_K[k]))
        return len(self.columns) > before

    def solve(self) -> tuple[float, Array, Array]:
        """How many clients are served, the prices, and the share of each subchannel that each client gets, [K, M]."""
        from scipy.optimize import linprog  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]
        from scipy.sparse import csc_array  # pyright: ignore[reportMissingTypeStubs]

        client_S = np.array([k for k, _ in self.columns])
        set_SM = np.array([set_M for set_M, _ in self.columns.values()])
        power_S = np.array([power_w for _, power_w in self.columns.values()]) / self.problem.total_w
        ours_SK = client_S[:, None] == self.senders
        use = csc_array(np.concatenate((ours_SK, set_SM, power_S[:, None]), axis=1).T)
        solved: Any = linprog(
            -np.ones(len(client_S)), A_ub=use, b_ub=np.ones(self.num_senders + len(set_SM[0]) + 1), method="highs-ds"
        )
        if solved.status != 0:
            return np.inf, np.zeros(0), np.zeros(self.problem.log_KM.shape)
        share_KM = np.zeros(self.problem.log_KM.shape)
        np.add.at(share_KM, client_S, solved.x[:, None] * set_SM)
        dual_M1 = np.maximum(-np.asarray(solved.ineqlin.marginals, dtype=np.float64)[self.num_senders :], 0.0)
        dual_M1[-1] = max(dual_M1[-1], 1e-9)  # a power without a price has no multipliers
        return -float(solved.fun), dual_M1, share_KM
