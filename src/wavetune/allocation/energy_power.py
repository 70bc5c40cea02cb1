"""Exact powers for given owners where energy counts: a price on joules, budgets of joules, a deadline.

Problem, for a round of I steps with given owners, cuts and ranks: two times are free, t when the last activations of a
step have arrived and u when the last adapters have. A client that waits spends least by sending all the while, so that

    minimise  a (I (t + after) + u)  +  b (I sum_k e_k(t) + sum_k f_k(u))
    s.t.      c_k + I e_k(t) + f_k(u) <= budget_k,  all together <= total,  I (t + after) + u <= deadline,  power caps,

where e_k(t) = (t - ready_k) P_k(D_k / (t - ready_k)) is the water-filled energy, convex and falling, f_k likewise, and
c_k the energy of computing. Solution: for each t the best u is found by bisection; what remains is convex in t alone.
Where clients have shares of the server, t is the end of a step and ready_k all that client k's pipeline takes besides.
Source: our own; the energy model is that of PWFF (arXiv 2404.13238) as we reconstruct it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from wavetune.allocation.delay import Phases, load_of
from wavetune.allocation.plan import Allocation, Plan, make_plan
from wavetune.allocation.problem import IntArray, Problem
from wavetune.allocation.uplink import Uplink, earliest
from wavetune.errors import ConfigError
from wavetune.units import Array

_SHARPNESS = 1e-9
_GOLDEN = 0.5 * (3.0 - np.sqrt(5.0))


@dataclass(frozen=True)
class EnergyTerms:
    """What a joule is worth, and how many may be spent in a round.

    Args:
        weight_s_per_j: seconds of delay that are given for a joule less, of all clients and the server together.
        budget_j: cap on every client's energy of a round, computing and sending.
        total_budget_j: cap on the energy of a round, of all clients and the server together.
        deadline_s: a round must not last longer.
        target_delay_s: nor all rounds to the target loss together.
        least: what is minimised, the delay to the target plus the weighted energy, or the energy alone.
    """

    weight_s_per_j: float = 0.0
    budget_j: float = np.inf
    total_budget_j: float = np.inf
    deadline_s: float = np.inf
    target_delay_s: float = np.inf
    least: Literal["delay", "energy"] = "delay"

    def __post_init__(self) -> None:
        if self.least == "energy" and not np.isfinite(min(self.deadline_s, self.target_delay_s)):
            raise ConfigError("the least energy takes forever; give the round a deadline, round_deadline_s")

    @property
    def idle(self) -> bool:
        """Whether the delay alone counts."""
        return self == EnergyTerms()

    @property
    def budgeted(self) -> bool:
        """Whether there is a budget of joules."""
        return bool(np.isfinite(self.budget_j) or np.isfinite(self.total_budget_j))

    def without_budgets(self) -> EnergyTerms:
        """The same with as many joules as one likes."""
        return replace(self, budget_j=np.inf, total_budget_j=np.inf)

    def cost(self, problem: Problem, plan: Plan) -> float:
        """What is minimised: seconds to the target (the weighted energy added), or joules to the target."""
        joules = rounds_of(problem, plan.rank_K) * plan.energy.total_j
        return joules if self.least == "energy" else plan.delay_s + self.weight_s_per_j * joules

    def kept(self, plan: Plan, forgiven: float = 1e-6) -> bool:
        """Whether a plan keeps the budgets and the deadline."""
        spent_j = float(np.max(plan.energy.client_compute_j_K + plan.energy.client_radio_j_K))
        pairs = (
            (spent_j, self.budget_j),
            (plan.energy.total_j, self.total_budget_j),
            (plan.phases.round_s, self.deadline_s),
            (plan.delay_s, self.target_delay_s),
        )
        return all(value <= most * (1 + forgiven) for value, most in pairs)


def rounds_of(problem: Problem, rank_K: IntArray | int) -> float:
    """Rounds to the target: those of the slowest rank to learn."""
    return max(problem.rounds_to_target[int(r)] for r in np.unique(rank_K))


def economical_plan(
    problem: Problem,
    cut_K: IntArray | int,
    rank_K: IntArray | int,
    main_owner_M: IntArray,
    fed_owner_M: IntArray,
    terms: EnergyTerms,
    server_share_K: Array | None = None,
) -> Plan | None:
    """Plan with the best powers on the given owners; None where no powers keep the budgets and the deadline.

    Args:
        problem: bands, clients and costs.
        cut_K, rank_K: per client, or the same for all.
        main_owner_M, fed_owner_M: client that owns each subchannel, -1 for none.
        terms: price, budgets and deadline.
        server_share_K: shares of the server where it is shared.
    """
    K, load = problem.num_clients, load_of(problem, cut_K, rank_K)
    idle = make_plan(
        problem, cut_K, rank_K, _unpowered(main_owner_M), _unpowered(fed_owner_M), server_share_K=server_share_K
    )
    ready_s_K, after_s = around_activations(idle.phases)
    cap_w_K, steps = problem.tx_power_max_w_K, problem.local_steps
    floor_K = np.broadcast_to(problem.fed_min_rate_bit_per_s, K) * (1 + _SHARPNESS) / problem.fed.subchannel_hz
    main = Uplink.of(problem.main, main_owner_M, ready_s_K, load.uplink_bits_IK[0], cap_w_K, np.zeros(K), steps)
    fed = Uplink.of(problem.fed, fed_owner_M, np.zeros(K), load.fed_upload_bits_K, cap_w_K, floor_K, 1)
    if main is None or fed is None:
        return None
    round_s = min(terms.deadline_s, terms.target_delay_s / rounds_of(problem, rank_K))
    times = _Round(
        main,
        fed,
        terms,
        left_j_K=terms.budget_j - idle.energy.client_compute_j_K,
        left_j=terms.total_budget_j - idle.energy.total_j,
        left_s=round_s - steps * after_s - float(np.max(idle.phases.fed_download_s)),
    ).best_times()
    if times is None:
        return None
    powered = main.allocation(times[0]), fed.allocation(times[1])
    return make_plan(problem, cut_K, rank_K, *powered, server_share_K=server_share_K)


def around_activations(phases: Phases) -> tuple[Array, float]:
    """What a step takes besides sending activations: each client's own part [K], and what follows the last arrival."""
    if phases.pipelined:
        server_s, down_s = phases.server_forward_s + phases.server_backward_s, phases.downlink_s
        return (phases.client_forward_s + server_s + down_s + phases.client_backward_s)[0], 0.0
    after_s = phases.server_forward_s[0] + phases.server_backward_s[0]
    return phases.client_forward_s[0], float(after_s + np.max(phases.downlink_s + phases.client_backward_s))


def _unpowered(owner_M: IntArray) -> Allocation:
    return Allocation(owner_M, np.zeros(len(owner_M)))


@dataclass(frozen=True, eq=False)
class _Round:
    """Both bands of a round and what is left for them: joules of each client, of all together, and seconds."""

    main: Uplink
    fed: Uplink
    terms: EnergyTerms
    left_j_K: Array
    left_j: float
    left_s: float

    def best_times(self) -> tuple[float, float] | None:
        """When the activations of a step and the adapters are best done; None where no times are allowed."""
        steps, main_s = self.main.times, self.main.least_s
        bounded = self.terms.budgeted
        free_s = self._unbounded_fed_s()

        def soonest(t: float) -> float:
            return self._soonest_fed_s(t) if bounded else self.fed.least_s

        def lasts(t: float) -> float:
            return steps * t + soonest(t)

        if not self.main.sends:
            low_s = high_s = main_s
        else:
            low_s = main_s if not bounded else self._first_main_s()
            if not np.isfinite(low_s):
                return None
            high_s = self._last_main_s(low_s, soonest, free_s)
            if bounded:
                shortest_s = _lowest(lasts, low_s, high_s)
                low_s = _edge(lambda t: lasts(t) <= self.left_s, shortest_s, low_s)
                high_s = _edge(lambda t: lasts(t) <= self.left_s, shortest_s, high_s)
        shortest_s = lasts(low_s)
        if high_s < low_s or not np.isfinite(shortest_s) or shortest_s > self.left_s * (1 + _SHARPNESS):
            return None

        def fed_s(t: float) -> float:
            return max(soonest(t), min(free_s, self.left_s - steps * t))

        best_s = _lowest(lambda t: self._cost(t, fed_s(t)), low_s, high_s)
        return best_s, fed_s(best_s)

    def _cost(self, main_s: float, fed_s: float) -> float:
        if not np.isfinite(fed_s):
            return np.inf
        weight = 1.0 if self.terms.least == "energy" else self.terms.weight_s_per_j
        delay_s = 0.0 if self.terms.least == "energy" else self.main.times * main_s + fed_s
        if weight == 0:
            return delay_s
        return delay_s + weight * float(np.sum(self.main.joules_K(main_s)) + np.sum(self.fed.joules_K(fed_s)))

    def _unbounded_fed_s(self) -> float:
        """Best time for the adapters where neither budget nor deadline binds."""
        if not self.fed.sends or (self.terms.least == "delay" and self.terms.weight_s_per_j == 0):
            return self.fed.least_s
        if self.terms.least == "energy":
            return np.inf
        low_s, main_s = self.fed.least_s, self.main.least_s
        high_s = self._cost(main_s, low_s) - self.main.times * main_s
        return _lowest(lambda u: self._cost(main_s, u), low_s, max(high_s, low_s))

    def _last_main_s(self, low_s: float, soonest: Callable[[float], float], free_s: float) -> float:
        """The activations need not be done later than this: it costs more, or leaves no time for the adapters."""
        steps, last_s = self.main.times, (self.left_s - self.fed.least_s) / self.main.times
        if self.terms.least == "energy":
            return last_s
        first_s = low_s
        while not np.isfinite(soonest(first_s)):
            first_s *= 2.0
        first_s = first_s * (1 + 1e-6) if first_s > low_s else first_s
        return min(last_s, max(self._cost(first_s, max(soonest(first_s), free_s)) / steps, first_s))

    def _first_main_s(self) -> float:
        """Earliest time for the activations at which the budgets leave something for the adapters; infinite if none."""
        least_K = self.fed.joules_K(1e9 * self.fed.least_s) if self.fed.sends else np.zeros(len(self.left_j_K))

        def leaves(t: float) -> bool:
            spent_K = self.main.joules_K(t) + least_K
            return bool(np.all(spent_K <= self.left_j_K)) and float(np.sum(spent_K)) <= self.left_j

        first_s = earliest(leaves, self.main.least_s)
        return np.inf if first_s is None else first_s

    def _soonest_fed_s(self, main_s: float) -> float:
        """Earliest time for the adapters within what the activations leave of the budgets; infinite if none."""
        spent_K = self.main.joules_K(main_s)
        left_K, left_j = self.left_j_K - spent_K, self.left_j - float(np.sum(spent_K))
        if np.any(left_K < 0) or left_j < 0:
            return np.inf
        if not self.fed.sends:
            return self.fed.least_s
        from wavetune.allocation.airtime import earliest_affordable

        return earliest_affordable(self.fed.race, self.fed.owner_M, self.fed.floor_K, left_K, left_j, self.fed.least_s)


def _edge(holds: Callable[[float], bool], inside_s: float, outside_s: float) -> float:
    """Last time on the way from where a condition holds to another at which it still holds."""
    if holds(outside_s) or not holds(inside_s):
        return outside_s if holds(outside_s) else inside_s
    for _ in range(60):
        middle_s = 0.5 * (inside_s + outside_s)
        inside_s, outside_s = (middle_s, outside_s) if holds(middle_s) else (inside_s, middle_s)
    return inside_s


def _lowest(cost: Callable[[float], float], low_s: float, high_s: float) -> float:
    """Where a convex function of time is least between two times, by golden section on the logarithm of the time."""
    if not low_s < high_s:
        return low_s
    low, high = np.log(low_s), np.log(high_s)
    left, right = low + _GOLDEN * (high - low), high - _GOLDEN * (high - low)
    left_cost, right_cost = cost(np.exp(left)), cost(np.exp(right))
    while high - low > _SHARPNESS:
        if left_cost <= right_cost < np.inf or left_cost < right_cost:  # Whatever costs infinity lies too early.
            high, right, right_cost = right, left, left_cost
            left = low + _GOLDEN * (high - low)
            left_cost = cost(np.exp(left))
        else:
            low, left, left_cost = left, right, right_cost
            right = high - _GOLDEN * (high - low)
            right_cost = cost(np.exp(right))
    candidates = (low_s, float(np.exp(0.5 * (low + high))), high_s)
    return min(candidates, key=cost)
