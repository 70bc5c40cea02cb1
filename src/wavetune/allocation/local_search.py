"""Compiled local search: who should own what so that all clients meet a given delay with little power.

At a fixed delay every client's rate is fixed, and so is the least power its subchannels allow; clients interact only
through who owns what. A step gives a subchannel to another client or exchanges two, and what it saves is bounded from
above by the subchannels' values at the present water levels (water-filling's dual is a lower bound on power), so that
few of the M^2 / 2 exchanges are evaluated exactly. Random kicks, undone unless they pay, leave local optima. The first
owners come from a greedy rule: every client its best subchannel, the rest to whoever would finish last. Where rates
grow in steps, powers are at first those of the least concave rate above them, and then those of whole steps, which take
longer and are bounded less closely, so that such evaluations are counted.
Shape suffixes: K clients, M subchannels.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

import numpy as np

from wavetune.allocation.gains import NO_GAIN_LOG2
from wavetune.allocation.ladder import stepped_power
from wavetune.allocation.problem import IntArray
from wavetune.allocation.water_filling import NO_STEPS, Steps, inlined, kernel, least_power, part
from wavetune.units import Array


@kernel
def first_owners(
    snr_per_w_KM: Array,
    ready_K: Array,
    need_K: Array,
    cap_w_K: Array,
    total_w: float,
    order_K: IntArray,
    seed_K: IntArray,
    limit: float,
) -> IntArray:
    """Owners by a greedy rule that, unlike the paper's, never lets a client drop out at its power cap.

    Clients choose in the order given, and the client that would finish last under an even power takes its best free
    subchannel, until none is free. `seed_K` names a first subchannel per client, used where free choice leaves a client
    without any.
    """
    K, M = snr_per_w_KM.shape
    owner_M, count_K, rate_K = np.full(M, -1, np.int64), np.zeros(K, np.int64), np.zeros(K)
    even_w = total_w / M
    for k in order_K:
        if need_K[k] > 0.0:
            i = best_free(snr_per_w_KM[k], owner_M)
            if i < 0:
                for i in range(M):
                    owner_M[i] = -1
                for j in range(K):
                    if need_K[j] > 0.0:
                        owner_M[seed_K[j]] = j
                break
            owner_M[i] = k
    for i in range(M):
        if owner_M[i] >= 0:
            count_K[owner_M[i]] += 1
    for k in range(K):
        rate_K[k] = even_rate(snr_per_w_KM[k], owner_M, k, count_K[k], cap_w_K[k], even_w, limit)
    open_K = need_K > 0.0
    while True:
        last, last_s = -1, -np.inf
        for k in range(K):
            if open_K[k] and ready_K[k] + need_K[k] / rate_K[k] > last_s:
                last, last_s = k, ready_K[k] + need_K[k] / rate_K[k]
        if last < 0:
            return owner_M
        i = best_free(snr_per_w_KM[last], owner_M)
        if i < 0:
            open_K[last] = False
            continue
        owner_M[i] = last
        count_K[last] += 1
        rate_K[last] = even_rate(snr_per_w_KM[last], owner_M, last, count_K[last], cap_w_K[last], even_w, limit)


@part
def best_free(snr_per_w_M: Array, owner_M: IntArray) -> int:
    """Strongest subchannel without an owner; -1 where none has any gain."""
    best, best_snr = -1, 0.0
    for i in range(len(owner_M)):
        if owner_M[i] < 0 and snr_per_w_M[i] > best_snr:
            best, best_snr = i, snr_per_w_M[i]
    return best


@part
def even_rate(
    snr_per_w_M: Array, owner_M: IntArray, k: int, count: int, cap_w: float, even_w: float, limit: float
) -> float:
    """Rate (bit/s/Hz) of client k if it spreads its power evenly, within its cap."""
    rate, power_w = 1e-300, min(even_w, cap_w / max(count, 1))
    for i in range(len(owner_M)):
        if owner_M[i] == k:
            rate += min(np.log1p(snr_per_w_M[i] * power_w), limit * np.log(2.0))
    return rate / np.log(2.0)


_LOG_2 = np.log(2.0)
_ANY = 2**62  # evaluations
_WHOLE, _WHOLE_EACH = 10_000, 5  # of whole steps: in any search, and for each pair of a client and a subchannel


class Demand(NamedTuple):
    """One band at one delay: the rate (bit/s/Hz) each of K clients needs on M subchannels, and the caps (W).

    A watt above a client's own cap costs `excess_price_K` watts besides itself. `limit` is the most that a subchannel
    carries (bit/s/Hz). Where the way back is planned too, clients ask for `ask_K` in sum of their `back_KM`, and a unit
    that is missing costs `shortage_price_K` watts. Of rates in `steps` the power is that of `whole` ones or of their
    linear relaxation.
    """

    log_KM: Array
    inverse_KM: Array
    rate_K: Array
    cap_w_K: Array
    total_w: float
    excess_price_K: Array
    limit: float
    back_KM: Array = np.zeros((0, 0))
    ask_K: Array = np.zeros(0)
    shortage_price_K: Array = np.zeros(0)
    steps: Steps = NO_STEPS
    whole: bool = False


class Ownership(NamedTuple):
    """Who owns what, strongest first, and what follows from it at the clients' present water levels.

    value_KM bounds what a client would save by a subchannel (or gains from one it owns); own_value_M and loss_M are,
    for its present owner, that bound and what giving it up would really cost. All in priced watts.
    """

    owner_M: IntArray
    owned_KM: IntArray
    count_K: IntArray
    power_w_K: Array
    back_K: Array
    cost_K: Array
    value_KM: Array
    own_value_M: Array
    loss_M: Array
    changed_K: IntArray
    scratch_M: IntArray
    rung_M: IntArray
    left_1: IntArray


@inlined
def back(demand: Demand, k: int, i: int | np.int64) -> float:
    """What a subchannel carries to client k on the way back; 0 where that is not asked, or for none."""
    return demand.back_KM[k, i] if len(demand.ask_K) > 0 and i >= 0 else 0.0


@inlined
def price(demand: Demand, k: int, power_w: float, carried: float) -> float:
    """Cost of client k's power: each watt costs 1, one above the client's cap much more; and of what it lacks."""
    cost = power_w + demand.excess_price_K[k] * max(0.0, power_w - demand.cap_w_K[k])
    return cost + demand.shortage_price_K[k] * max(0.0, demand.ask_K[k] - carried) if len(demand.ask_K) > 0 else cost


@inlined
def needed_power(demand: Demand, own: Ownership, k: int, owned: IntArray, count: int) -> tuple[float, float, float]:
    """Power of client k on what it owns (W), its water level (W), and how much of the power whole steps cost (W)."""
    log_M, inverse_M, rate = demand.log_KM[k], demand.inverse_KM[k], demand.rate_K[k]
    if len(demand.steps.snr_I) == 0:
        power_w, level_w = least_power(log_M, inverse_M, owned, count, rate, demand.limit)
        return power_w, level_w, 0.0
    choices = 0 if demand.whole else -1
    power_w, least_w, rate_price = stepped_power(
        demand.steps, log_M, inverse_M, owned, count, rate, choices, own.rung_M
    )
    return power_w, rate_price / _LOG_2, power_w - least_w


@part
def set_values(demand: Demand, k: int, level_w: float, value_M: Array) -> None:
    """Set what each subchannel saves client k at a water level, at most (W)."""
    log_M, inverse_M, limit = demand.log_KM[k], demand.inverse_KM[k], demand.limit
    snr_I, rate_I, hull_I = demand.steps
    if len(hull_I) > 0:
        for i in range(len(log_M)):
            value_M[i] = 0.0
            for h in hull_I if log_M[i] > NO_GAIN_LOG2 else hull_I[:1]:
                value_M[i] = max(value_M[i], level_w * _LOG_2 * rate_I[h] - snr_I[h] * inverse_M[i])
        return
    log_level = np.log2(level_w) if level_w > 0.0 else -np.inf
    most, most_snr = level_w * _LOG_2 * limit, np.expm1(limit * _LOG_2)
    for i in range(len(log_M)):
        above = log_level + log_M[i]
        value = level_w * (_LOG_2 * above - 1.0) + inverse_M[i]
        value = most - most_snr * inverse_M[i] if above > limit else value
        value_M[i] = value if above > 0.0 else 0.0


@inlined
def changed_price(demand: Demand, own: Ownership, k: int, without: int | np.int64, extra: int | np.int64) -> float:
    """Cost of client k's power with one subchannel taken away and one added (-1 for none)."""
    log_M, n, waiting = demand.log_KM[k], 0, extra >= 0
    own.left_1[0] -= 1
    for j in range(own.count_K[k]):
        i = own.owned_KM[k, j]
        if waiting and log_M[extra] > log_M[i]:
            own.scratch_M[n] = extra
            n += 1
            waiting = False
        if i != without:
            own.scratch_M[n] = i
            n += 1
    if waiting:
        own.scratch_M[n] = extra
        n += 1
    power_w = needed_power(demand, own, k, own.scratch_M, n)[0]
    return price(demand, k, power_w, own.back_K[k] - back(demand, k, without) + back(demand, k, extra))


@part
def refresh(demand: Demand, own: Ownership, k: int) -> None:
    """Bring client k's power, values and losses up to date with what it owns."""
    value_M = own.value_KM[k]
    power_w, level_w, rounded_w = needed_power(demand, own, k, own.owned_KM[k], own.count_K[k])
    slope = 1.0 + demand.excess_price_K[k] if power_w > demand.cap_w_K[k] else 1.0
    set_values(demand, k, level_w, value_M)
    if slope > 1.0:
        for i in range(len(value_M)):
            value_M[i] *= slope
    own.power_w_K[k], own.back_K[k] = power_w, 0.0
    if len(demand.ask_K) > 0:
        for j in range(own.count_K[k]):
            own.back_K[k] += demand.back_KM[k, own.owned_KM[k, j]]
        if own.back_K[k] < demand.ask_K[k]:
            for i in range(len(value_M)):
                value_M[i] += demand.shortage_price_K[k] * demand.back_KM[k, i]
    cost = own.cost_K[k] = price(demand, k, power_w, own.back_K[k])
    for j in range(own.count_K[k]):
        i = own.owned_KM[k, j]
        own.own_value_M[i] = value_M[i]
        own.loss_M[i] = changed_price(demand, own, k, i, np.int64(-1)) - cost
    if rounded_w != 0.0:  # what steps cost can be saved besides
        for i in range(len(value_M)):
            value_M[i] += slope * rounded_w
    own.changed_K[k] = 1


@part
def assign(demand: Demand, own: Ownership, i: int, k: int) -> None:
    """Take subchannel i from its owner and give it to client k; either may be -1, nobody."""
    a = own.owner_M[i]
    own.owner_M[i] = k
    if a >= 0:
        owned = own.owned_KM[a]
        j = 0
        while owned[j] != i:
            j += 1
        own.count_K[a] -= 1
        while j < own.count_K[a]:
            owned[j] = owned[j + 1]
            j += 1
    if k >= 0:
        owned, j = own.owned_KM[k], own.count_K[k]
        while j > 0 and demand.log_KM[k, owned[j - 1]] < demand.log_KM[k, i]:
            owned[j] = owned[j - 1]
            j -= 1
        owned[j] = i
        own.count_K[k] += 1
    else:
        own.own_value_M[i] = own.loss_M[i] = 0.0


@part
def ownership(demand: Demand, owner_M: IntArray, evaluations: int, owned_KM: IntArray, value_KM: Array) -> Ownership:
    """State of the search for given owners, in the tables given, and how many evaluations it may take."""
    K, M = demand.log_KM.shape
    own = Ownership(
        np.full(M, -1, np.int64),
        owned_KM,
        np.zeros(K, np.int64),
        np.zeros(K),
        np.zeros(K),
        np.zeros(K),
        value_KM,
        np.zeros(M),
        np.zeros(M),
        np.zeros(K, np.int64),
        np.zeros(M + 1, np.int64),
        np.zeros(M + 1, np.int64),
        np.full(1, evaluations),
    )
    for i in range(M):
        if owner_M[i] >= 0:
            assign(demand, own, i, owner_M[i])
    for k in range(K):
        refresh(demand, own, k)
    return own


@part
def best_step(demand: Demand, own: Ownership, a: int) -> tuple[int, int, int]:
    """Step that saves most and concerns client a: subchannel i goes to client k and, unless j is -1, j comes back."""
    K, M = demand.log_KM.shape
    owner_M, owned_KM, count_K, cost_K = own.owner_M, own.owned_KM, own.count_K, own.cost_K
    value_KM, own_value_M, loss_M, value_a_M = own.value_KM, own.own_value_M, own.loss_M, own.value_KM[a]
    cost_a = cost_K[a]
    best, best_i, best_k, best_j = 1e-9 * max(cost_a, 1e-12), -1, -1, -1
    most_K = np.full(K, -np.inf)  # what a saves by one of k's subchannels, less what that is worth to k: at most
    for j in range(M):
        b = owner_M[j]
        if b >= 0 and b != a:
            most_K[b] = max(most_K[b], value_a_M[j] - own_value_M[j])
    for n in range(count_K[a]):
        i = owned_KM[a, n]
        loss, own_value = loss_M[i], own_value_M[i]
        for k in range(K):
            value_k, cost_k = value_KM[k, i], cost_K[k]
            gives = min(value_k, cost_k) - loss > best
            if k == a or (not gives and most_K[k] + (value_k - own_value) <= (1.0 - 1e-9) * best):
                continue
            if gives:
                saving = cost_k - changed_price(demand, own, k, np.int64(-1), i) - loss
                if saving > best:
                    best, best_i, best_k, best_j = saving, i, k, -1
            for m in range(count_K[k]):
                j = owned_KM[k, m]
                save_a, save_k = value_a_M[j] - own_value, value_k - own_value_M[j]
                if min(save_a, cost_a) + min(save_k, cost_k) > best:
                    saving = cost_a - changed_price(demand, own, a, i, j)
                    saving += cost_k - changed_price(demand, own, k, j, i)
                    if saving > best:
                        best, best_i, best_k, best_j = saving, i, k, j
    for j in range(M):
        if min(value_a_M[j], cost_a) - loss_M[j] > best and owner_M[j] != a:
            saving = cost_a - changed_price(demand, own, a, np.int64(-1), j) - loss_M[j]
            if saving > best:
                best, best_i, best_k, best_j = saving, j, a, -1
    return best_i, best_k, best_j


@part
def is_short(demand: Demand, own: Ownership, k: int) -> bool:
    """Whether client k is above its cap, or lacks something on the way back."""
    if len(demand.ask_K) > 0 and own.back_K[k] < demand.ask_K[k] * (1.0 - 1e-12):
        return True
    return own.power_w_K[k] > demand.cap_w_K[k]


@part
def to_local_optimum(demand: Demand, own: Ownership, only_short: bool) -> None:
    """Take improving steps until none is left for any client whose subchannels changed, or for any that is short."""
    changed = True
    while changed:
        changed = False
        for a in range(len(own.count_K)):
            while own.changed_K[a] == 1 and own.left_1[0] > 0 and (not only_short or is_short(demand, own, a)):
                i, k, j = best_step(demand, own, a)
                own.changed_K[a] = 0
                if i < 0:
                    break
                changed = True
                giver = own.owner_M[i]
                assign(demand, own, i, k)
                if j >= 0:
                    assign(demand, own, j, giver)
                refresh(demand, own, k)
                if giver >= 0:
                    refresh(demand, own, giver)


@part
def total_price(demand: Demand, own: Ownership) -> float:
    """Cost of all clients' power."""
    cost = 0.0
    for k in range(len(own.cost_K)):
        cost += own.cost_K[k]
    return cost


@part
def meets(demand: Demand, own: Ownership) -> bool:
    """Whether every cap holds."""
    spent_w = 0.0
    for k in range(len(own.power_w_K)):
        spent_w += own.power_w_K[k]
        if is_short(demand, own, k):
            return False
    return spent_w <= demand.total_w


@part
def most_over_cap(demand: Demand, own: Ownership) -> int:
    """Client furthest above its cap; -1 where none is above or it owns nothing."""
    worst, most = -1, 0.0
    for k in range(len(own.count_K)):
        over = own.power_w_K[k] / demand.cap_w_K[k] - 1.0
        if len(demand.ask_K) > 0 and own.back_K[k] > 0.0:
            over = max(over, demand.ask_K[k] / own.back_K[k] - 1.0)
        if over > most and own.count_K[k] > 0:
            worst, most = k, over
    return worst


@part
def draw(state_1: Array) -> float:
    """Random number in [0, 1) from a linear congruential generator whose state is exact in a float."""
    state_1[0] = (state_1[0] * 1103515245.0 + 12345.0) % 2147483648.0
    return float(state_1[0]) / 2147483648.0


@part
def restore(demand: Demand, own: Ownership, owner_M: IntArray) -> None:
    """Go back to earlier owners."""
    touched_K = np.zeros(len(own.count_K), np.int64)
    for i in range(len(owner_M)):
        if own.owner_M[i] != owner_M[i]:
            if own.owner_M[i] >= 0:
                touched_K[own.owner_M[i]] = 1
            if owner_M[i] >= 0:
                touched_K[owner_M[i]] = 1
            assign(demand, own, i, owner_M[i])
    for k in range(len(touched_K)):
        if touched_K[k] == 1:
            refresh(demand, own, k)
            own.changed_K[k] = 0


@part
def kick(demand: Demand, own: Ownership, state_1: Array) -> None:
    """Rotate the owners of two to five random subchannels, half the time with one of the client most above its cap."""
    M, n = len(own.owner_M), 2 + int(4.0 * draw(state_1))
    chosen = np.zeros(5, np.int64)
    for m in range(n):
        chosen[m] = int(M * draw(state_1))
    worst = most_over_cap(demand, own)
    if worst >= 0 and draw(state_1) < 0.5:
        chosen[0] = own.owned_KM[worst, int(own.count_K[worst] * draw(state_1))]
    first = int(own.owner_M[chosen[0]])
    for m in range(n):
        i = int(chosen[m])
        giver, taker = int(own.owner_M[i]), int(own.owner_M[chosen[m + 1]]) if m + 1 < n else first
        if giver >= 0 and taker >= 0 and giver != taker:
            assign(demand, own, i, taker)
            refresh(demand, own, giver)
            refresh(demand, own, taker)


class _Tables(threading.local):
    """Two tables of each thread's last search: to ask for so much memory anew takes longer than to fill it."""

    owned_KM: IntArray = np.empty((0, 0), np.int64)
    value_KM: Array = np.empty((0, 0))

    def of(self, K: int, M: int) -> tuple[IntArray, Array]:
        """Tables of a size, with anything in them."""
        if self.value_KM.shape != (K, M):
            self.owned_KM, self.value_KM = np.empty((K, M), np.int64), np.empty((K, M))
        return self.owned_KM, self.value_KM


_tables = _Tables()


def search(demand: Demand, owner_M: IntArray, kicks: int, seed: int) -> IntArray:
    """Owners after local search with at most `kicks` random kicks; it ends at the first owners that meet every cap.

    Clients that are above their cap, or short of something, change first: often that does. A kick is undone where the
    search does not recover to at most the cost before it.
    """
    return _search(demand, owner_M, kicks, seed, *_tables.of(*demand.log_KM.shape))


@kernel
def _search(demand: Demand, owner_M: IntArray, kicks: int, seed: int, owned_KM: IntArray, value_KM: Array) -> IntArray:
    state_1 = np.full(1, float(seed % 2147483648))
    evaluations = _WHOLE_EACH * demand.log_KM.size + _WHOLE if demand.whole else _ANY
    own = ownership(demand, owner_M, evaluations, owned_KM, value_KM)
    cost, kept_M = np.inf, owner_M.copy()
    for turn in range(kicks + 2):
        if turn > 1:
            kick(demand, own, state_1)
        to_local_optimum(demand, own, turn == 0)
        if meets(demand, own):
            break
        if turn > 0:
            new_cost = total_price(demand, own)
            if new_cost <= cost:
                cost, kept_M = new_cost, own.owner_M.copy()
            else:
                restore(demand, own, kept_M)
        if own.left_1[0] <= 0:
            break
    return own.owner_M
