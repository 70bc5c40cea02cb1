"""Exact powers for given owners where energy counts: a price on joules, budgets of joules, a deadline.

Problem, for a round of I steps with given owners, cuts and ranks: two times are free, t when the last activations of a
step have arrived and u when the last adapters have. A client that waits spends least by sending all the while, so that

    minimise  a (I (t + after) + u)  +  b (I sum_k e_k(t) + sum_k f_k(u))
    s.t.      c_k + I e_k(t) + f_k(u) <= budget_k,  all together <= total,  I (t + after) + u <= deadline,  power caps,

where e_k(t) = (t - ready_k) P_k(D_k / (t - ready_k)) is the water-filled energy, convex and falling, f_k likewise, and
c_k the energy of computing. Solution: for each t the best u is found by bisection; what remains is convex in t
alone, and so is by how much the deadline is missed.
Where clients have shares of the server, t is the end of a step and ready_k all that client k's pipeline takes besides.
Source: our own; the energy model is that of PWFF (arXiv 2404.13238) as we reconstruct it.
Shape suffixes: I local steps, K clients, M subchannels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from wavetune.allocation.delay import Phases, load_of
from wavetune.allocation.energy_terms import EnergyTerms
from wavetune.allocation.ladder import owners_delay
from wavetune.allocation.plan import Allocation, Plan, make_plan, rounds_of
from wavetune.allocation.power import band_problem
from wavetune.allocation.problem import IntArray, Problem, RadioBand
from wavetune.allocation.water_filling import NO_RANKING, BandProblem, earliest_affordable, energy_until, powers_until
from wavetune.errors import ConfigError
from wavetune.units import Array

_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class Uplink:
    """A band problem of clients with their owners.

    Args:
        problem: the band's tables, and what the clients send.
        owner_M: client that owns each subchannel, -1 for none.
        floor_K: least rates (bit/s/Hz).
        times: transfers of a round.
        least_s: the earliest time at which all can be done.
        efficiency: radiated over drawn power.
    """

    problem: BandProblem
    owner_M: IntArray
    floor_K: Array
    times: int
    least_s: float
    efficiency: float = 1.0

    @classmethod
    def of(
        cls,
        band: RadioBand,
        owner_M: IntArray,
        ready_s_K: Array,
        bits_K: Array,
        cap_w_K: Array,
        floor_K: Array,
        times: int,
        efficiency: float = 1.0,
    ) -> Uplink | None:
        """The band; None where a client that sends has no rate, or not the least rate, within the caps."""
        problem = band_problem(band, ready_s_K, bits_K, cap_w_K)
        owner_M = np.where(owner_M >= 0, np.where(problem.need_K[owner_M] > 0, owner_M, -1), -1)
        least_s = max(owners_delay(problem, owner_M), float(np.max(ready_s_K)))
        uplink = cls(problem, owner_M, floor_K, times, least_s, efficiency)
        if not uplink.sends:
            return uplink
        least_s = earliest(uplink.within_caps, least_s) if np.isfinite(least_s) else None
        return None if least_s is None else replace(uplink, least_s=least_s)

    @property
    def sends(self) -> bool:
        """Whether anybody sends anything."""
        return bool(np.any(self.problem.need_K > 0))

    def within_caps(self, done_s: float) -> bool:
        """Whether the powers to be done by a time keep the caps."""
        _, power_w_K = energy_until(self.problem, self.owner_M, self.floor_K, done_s)
        within = np.all(power_w_K <= self.problem.cap_w_K * (1 + _ROUNDING))
        return bool(within) and float(np.sum(power_w_K)) <= self.problem.total_w * (1 + _ROUNDING)

    def joules_K(self, done_s: float) -> Array:
        """Energy of a round's transfers in this band if each is done at a time (J)."""
        return self.times * energy_until(self.problem, self.owner_M, self.floor_K, done_s)[0] / self.efficiency

    def allocation(self, done_s: float) -> Allocation:
        """Owners and powers; what rounding adds to a cap is taken off."""
        power_w_M = powers_until(self.problem, self.owner_M, self.floor_K, done_s)
        spent_w_K = Allocation(self.owner_M, power_w_M).power_w_K(len(self.problem.need_K))
        scale_K = np.minimum(1.0, self.problem.cap_w_K / np.maximum(spent_w_K, 1e-300))
        power_w_M = np.where(self.owner_M >= 0, power_w_M * scale_K[self.owner_M], 0.0)
        return Allocation(
            self.owner_M, power_w_M * min(1.0, self.problem.total_w / max(float(power_w_M.sum()), 1e-300))
        )


def in_joules(problem: BandProblem, done_s: float) -> BandProblem:
    """The problem of being done by a time, later than all starts: at a delay of 1 its watts are the problem's joules.

    A client with t seconds to send sees ratios h / t, and its cap is the joules of t seconds. The total is not meant.
    """
    time_s_K = np.where(problem.need_K > 0, done_s - problem.ready_K, 1.0)
    return problem._replace(
        ranking=NO_RANKING,
        log_KM=problem.log_KM - np.log2(time_s_K)[:, None],
        inverse_KM=problem.inverse_KM * time_s_K[:, None],
        ready_K=np.zeros(len(time_s_K)),
        need_K=problem.need_K / time_s_K,
        cap_w_K=np.minimum(problem.cap_w_K, problem.total_w) * time_s_K,
    )


def earliest(holds: Callable[[float], bool], low_s: float) -> float | None:
    """Earliest time from `low_s` on at which a condition holds that holds ever after; None if not within 1e9 times."""
    if holds(low_s):
        return low_s
    high_s = low_s
    while not holds(high_s := 2.0 * high_s):
        if not high_s < 1e9 * low_s:
            return None
    low_s = max(low_s, 0.5 * high_s)
    while high_s - low_s > 1e-12 * high_s:
        middle_s = 0.5 * (low_s + high_s)
        low_s, high_s = (low_s, middle_s) if holds(middle_s) else (middle_s, high_s)
    return high_s


_SHARPNESS = 1e-9
_GOLDEN = 0.5 * (3.0 - np.sqrt(5.0))
_LONGEST = 1e9  # times the shortest time

Judged = tuple[float, float, float]  # how late (s), the cost, and when the adapters are done (s)


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
    _require_smooth(problem)
    K, load = problem.num_clients, load_of(problem, cut_K, rank_K)
    idle = make_plan(
        problem, cut_K, rank_K, _unpowered(main_owner_M), _unpowered(fed_owner_M), server_share_K=server_share_K
    )
    ready_s_K, after_s = around_activations(idle.phases)
    cap_w_K, steps = problem.tx_power_max_w_K, problem.local_steps
    floor_K = np.broadcast_to(problem.fed_min_rate_bit_per_s, K) * (1 + _SHARPNESS) / problem.fed.effective_hz
    bits_K, efficiency = load.uplink_bits_IK[0], problem.draw.amplifier_efficiency
    main = Uplink.of(problem.main, main_owner_M, ready_s_K, bits_K, cap_w_K, np.zeros(K), steps, efficiency)
    fed = Uplink.of(problem.fed, fed_owner_M, np.zeros(K), load.fed_upload_bits_K, cap_w_K, floor_K, 1, efficiency)
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
        low_s, high_s, free_s = self.main.least_s, self.main.least_s, self._unbounded_fed_s()
        if self.main.sends:
            high_s = max(low_s, min((self.left_s - self.fed.least_s) / self.main.times, _LONGEST * low_s))

        def judged(main_s: float) -> Judged:
            soonest_s, left_s = self._soonest_fed_s(main_s), self.left_s - self.main.times * main_s
            late_s = soonest_s - left_s if soonest_s < np.inf else np.inf
            if late_s == np.inf or late_s > 3 * _SHARPNESS * abs(self.left_s):
                return late_s, np.inf, soonest_s
            fed_s = max(soonest_s, min(free_s, left_s))
            return 0.0, self._cost(main_s, fed_s), fed_s

        best_s, (late_s, _, fed_s) = _lowest(judged, low_s, high_s)
        return None if late_s > 0 else (best_s, fed_s)

    def _cost(self, main_s: float, fed_s: float) -> float:
        weight = 1.0 if self.terms.least == "energy" else self.terms.weight_s_per_j
        delay_s = 0.0 if self.terms.least == "energy" else self.main.times * main_s + fed_s
        if weight == 0:
            return delay_s
        return delay_s + weight * float(np.sum(self.main.joules_K(main_s)) + np.sum(self.fed.joules_K(fed_s)))

    def _unbounded_fed_s(self) -> float:
        """Best time for the adapters where neither budget nor deadline binds."""
        low_s = self.fed.least_s
        if not self.fed.sends or (self.terms.least == "delay" and self.terms.weight_s_per_j == 0):
            return low_s
        if self.terms.least == "energy":
            return np.inf
        return _lowest(lambda u: (0.0, self._cost(self.main.least_s, u), u), low_s, _LONGEST * low_s)[0]

    def _soonest_fed_s(self, main_s: float) -> float:
        """Earliest time for the adapters within what the activations leave of the budgets; infinite if none."""
        if not self.terms.budgeted:
            return self.fed.least_s
        spent_K = self.main.joules_K(main_s)
        if not np.isfinite(np.sum(spent_K)):
            return np.inf
        left_K, left_j = self.left_j_K - spent_K, self.left_j - float(np.sum(spent_K))
        if np.any(left_K < 0) or left_j < 0:
            return np.inf
        if not self.fed.sends:
            return self.fed.least_s
        radiated_K, radiated = left_K * self.fed.efficiency, left_j * self.fed.efficiency
        return earliest_affordable(
            self.fed.problem, self.fed.owner_M, self.fed.floor_K, radiated_K, radiated, self.fed.least_s
        )


def _lowest(judged: Callable[[float], Judged], low_s: float, high_s: float) -> tuple[float, Judged]:
    """The time between two that is least late and, of those, costs least, and how it is judged; both are convex.

    By golden section on the logarithm of the time; what is infinitely late is too early.
    """
    seen = [(judged(time_s), time_s) for time_s in {low_s, high_s}]
    if len(seen) == 1:
        return seen[0][1], seen[0][0]
    low, high = float(np.log(low_s)), float(np.log(high_s))

    def looked_at(log_s: float) -> tuple[float, Judged]:
        seen.append((judged(float(np.exp(log_s))), float(np.exp(log_s))))
        return log_s, seen[-1][0]

    left, right = looked_at(low + _GOLDEN * (high - low)), looked_at(high - _GOLDEN * (high - low))
    while high - low > _SHARPNESS:
        if left[1][:2] <= right[1][:2] and left[1][0] < np.inf:
            high, right = right[0], left
            left = looked_at(low + _GOLDEN * (high - low))
        else:
            low, left = left[0], right
            right = looked_at(high - _GOLDEN * (high - low))
    best, best_s = min(seen)
    return best_s, best


def _require_smooth(problem: Problem) -> None:
    """Raise ConfigError where a rate grows in steps."""
    if problem.main.ladder is not None or problem.fed.ladder is not None:
        raise ConfigError(
            f"energy can be planned with a smooth rate alone, and {problem.main.rate.kind} grows in steps; set "
            "world.scenario.rate.kind=shannon, with its gap and its largest rate"
        )
