"""Plans as practice makes them: a cut and a rank fixed for good, a scheduler of base stations, full power.

Nothing is decided by the delay: the cut is 3 and the rank 8, or the nearest allowed pair; every client radiates its own
cap, spread evenly over its subchannels, all less where the total would be exceeded. The schedulers are those of
textbooks (Dahlman, Parkvall, Skoeld: 5G NR, section 14.1). One that leaves a sending client without a usable subchannel
first gives each the one that an assignment of largest rates gives it.
Shape suffixes: K clients, M subchannels, S clients that send.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from wavetune.allocation.delay import load_of
from wavetune.allocation.feasibility import check_feasible, usable_subchannels
from wavetune.allocation.plan import Allocation, Plan, infeasible, make_plan
from wavetune.allocation.problem import BoolArray, IntArray, Problem, RadioBand
from wavetune.units import Array

CUT, RANK = 3, 8
Scheduler = Callable[[Array], IntArray]  # rates of senders on subchannels, [S, M] -> which of them owns each, [M]


def equal_shares(rate_SM: Array) -> IntArray:
    """Neighbouring subchannels to each client, as many to one as to another.

    >>> equal_shares(np.ones((2, 5))).tolist()
    [0, 0, 0, 1, 1]
    """
    S, M = rate_SM.shape
    return np.arange(M, dtype=np.int64) * S // M


def round_robin(rate_SM: Array) -> IntArray:
    """Subchannels to the clients in turn.

    >>> round_robin(np.ones((2, 5))).tolist()
    [0, 1, 0, 1, 0]
    """
    S, M = rate_SM.shape
    return np.arange(M, dtype=np.int64) % S


def max_gain(rate_SM: Array) -> IntArray:
    """Every subchannel to the client that is heard best on it.

    >>> max_gain(np.array([[3.0, 1.0], [2.0, 2.0]])).tolist()
    [0, 1]
    """
    return np.argmax(rate_SM, axis=0)


def proportional_fair(rate_SM: Array) -> IntArray:
    """Every subchannel in turn to the client whose rate on it is the largest share of what it has so far.

    >>> proportional_fair(np.array([[3.0, 3.0], [1.0, 1.0]])).tolist()
    [0, 1]
    """
    owner_M, had_S = np.zeros(rate_SM.shape[1], dtype=np.int64), np.zeros(len(rate_SM))
    for m, rate_S in enumerate(rate_SM.T):
        # Who has nothing yet comes first, and of those the one that is heard best.
        best = np.lexsort((rate_S / np.maximum(had_S, 1e-300), (had_S == 0) & (rate_S > 0)))[-1]
        owner_M[m] = best
        had_S[best] += rate_S[best]
    return owner_M


def plan_by(problem: Problem, scheduler: Scheduler) -> Plan:
    """Plan of the fixed cut and rank with a scheduler's owners and full power."""
    feasible = check_feasible(problem)
    if not feasible.pairs:
        return infeasible(feasible.reason)
    cut, rank = min(feasible.pairs, key=lambda pair: (abs(pair[0] - CUT), abs(pair[1] - RANK)))
    load, cap_w_K = load_of(problem, cut, rank), problem.tx_power_max_w_K
    main, fed = (
        _full_power(band, _owners(band, bits_K, cap_w_K, scheduler), cap_w_K)
        for band, bits_K in ((problem.main, load.uplink_bits_IK[0]), (problem.fed, load.fed_upload_bits_K))
    )
    plan = make_plan(problem, cut, rank, main, fed)
    thin = "a client whose power is spread evenly over its subchannels is heard on none of them"
    return plan if np.isfinite(plan.delay_s) else infeasible(thin)


def _owners(band: RadioBand, bits_K: Array, cap_w_K: Array, scheduler: Scheduler) -> IntArray:
    senders = np.flatnonzero(bits_K > 0)
    if not len(senders):
        return np.full(band.num_subchannels, -1)
    power_w_K = np.minimum(cap_w_K, band.total_power_max_w)
    rate_SM = band.envelope_bit_per_s(band.snr_per_w_KM * power_w_K[:, None])[senders]
    usable_SM = usable_subchannels(band, cap_w_K)[senders]
    owner_M = scheduler(np.where(usable_SM, rate_SM, 0.0))
    heard_M = usable_SM[owner_M, np.arange(band.num_subchannels)]
    if len(np.unique(owner_M[heard_M])) < len(senders):
        owner_M[_one_each(rate_SM, usable_SM)] = np.arange(len(senders))
    return senders[owner_M]


def _one_each(rate_SM: Array, usable_SM: BoolArray) -> IntArray:
    """A usable subchannel for every sender, [S], with the largest sum of logarithms of the rates."""
    from scipy.optimize import (  # pyright: ignore[reportMissingTypeStubs]
        linear_sum_assignment,  # pyright: ignore[reportUnknownVariableType]
    )

    worth_SM = np.where(usable_SM, np.log(np.maximum(rate_SM, 1e-300)), -1e9)
    return np.asarray(linear_sum_assignment(worth_SM, maximize=True)[1], dtype=np.int64)


def _full_power(band: RadioBand, owner_M: IntArray, cap_w_K: Array) -> Allocation:
    """Every client's cap spread evenly over its subchannels; all less where the total would be exceeded."""
    owned_K = np.bincount(owner_M[owner_M >= 0], minlength=len(cap_w_K))
    power_w_M = np.where(owner_M >= 0, (cap_w_K / np.maximum(owned_K, 1))[owner_M], 0.0)
    return Allocation(owner_M, power_w_M * min(1.0, band.total_power_max_w / max(float(power_w_M.sum()), 1e-300)))
