"""Plan where energy counts: from the fastest plan on, better powers, cut and rank, and owners that need less energy.

Powers are exact for given owners (`energy_power`). Owners, cut and rank are improved locally: at a fixed time every
rate is fixed, and the owners that need the fewest joules are sought by the same moves and swaps as those of the fastest
plan, in a band whose powers are counted times the time they are spent for. Shares of the server stay as they are.
Shape suffixes: I local steps, K clients, M subchannels.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from wavetune.allocation.delay import load_of, uplink_rate_bit_per_s_K
from wavetune.allocation.effort import Clock
from wavetune.allocation.energy_power import around_activations, economical_plan, in_joules
from wavetune.allocation.energy_terms import EnergyTerms
from wavetune.allocation.feasibility import check_feasible
from wavetune.allocation.local_search import Demand, search
from wavetune.allocation.plan import Plan, infeasible, rounds_of
from wavetune.allocation.planner import plan as fastest_plan
from wavetune.allocation.power import band_problem
from wavetune.allocation.problem import IntArray, Problem
from wavetune.allocation.water_filling import BandProblem
from wavetune.units import Array

Decision = tuple[IntArray | int, IntArray | int]

_SOONER = (1.0, 0.95, 0.8, 1.25)  # Times at which cheaper owners are sought, in those of the plan at hand.
_EXCESS_PRICE = 1e3  # joules for one above a cap
_ENOUGH = 1e-4
_PASSES = 8


@np.errstate(over="ignore")
def plan_with_energy(
    problem: Problem, terms: EnergyTerms, time_limit_s: float | None = None, warm_start: Plan | None = None
) -> Plan:
    """Plan that keeps budgets and deadline at the least cost found; the fastest plan where energy does not count.

    `lower_bound_s` is proved for the delay of any plan, whatever it spends.

    Args:
        problem: what to plan.
        terms: price of a joule, budgets, deadline.
        time_limit_s: stop about then; a first plan is always finished.
        warm_start: plan of a similar problem, such as the round before.

    Returns:
        The plan; status "infeasible" with the binding limits where none is found.
    """
    started_s = time.monotonic()
    fastest = fastest_plan(problem, time_limit_s, warm_start)
    if fastest.status != "ok" or terms.idle:
        return fastest
    clock = Clock(np.inf if time_limit_s is None else started_s + time_limit_s)
    return improve(problem, terms, fastest, warm_start, clock)


@np.errstate(over="ignore")
def improve(
    problem: Problem,
    terms: EnergyTerms,
    fastest: Plan,
    warm_start: Plan | None = None,
    clock: Clock | None = None,
    fixed: bool = False,
) -> Plan:
    """The best plan for these terms that is found from the fastest one on; `fixed` keeps its cuts and ranks."""
    problem = _with_floors_in_reach(problem, fastest)
    decisions: list[Decision] = [(fastest.cut_K, fastest.rank_K)]
    if not problem.share_server and not fixed:
        decisions += check_feasible(problem).pairs
    owners = [(fastest.main.owner_M, fastest.fed.owner_M)]
    if warm_start is not None and warm_start.status == "ok" and _same_shape(warm_start, fastest):
        owners.append((warm_start.main.owner_M, warm_start.fed.owner_M))
    search = _Search(problem, terms, fastest)
    if terms.kept(fastest):
        search.best = fastest
    for pair in owners:
        search.consider(decisions, *pair)
    if search.best is None:
        search.search_long_rounds(decisions)
    if search.best is None:
        return infeasible(_why_none(problem, terms, decisions))
    search.run(decisions, 2 if warm_start is not None else _PASSES, clock)
    return replace(search.best, lower_bound_s=min(fastest.lower_bound_s, search.best.delay_s))


def _with_floors_in_reach(problem: Problem, fastest: Plan) -> Problem:
    """The problem in which they alone must keep to the least rate of the fed band who reach it in the fastest plan."""
    least_K = np.broadcast_to(problem.fed_min_rate_bit_per_s, problem.num_clients)
    rate_K = uplink_rate_bit_per_s_K(problem.fed, fastest.fed.owner_M, fastest.fed.power_w_M)
    return replace(problem, fed_min_rate_bit_per_s=np.where(rate_K >= least_K * (1 + 1e-6), least_K, 0.0))


def _same_shape(one: Plan, other: Plan) -> bool:
    return one.main.owner_M.shape == other.main.owner_M.shape and one.fed.owner_M.shape == other.fed.owner_M.shape


class _Search:
    """The best plan so far, and what may improve it."""

    def __init__(self, problem: Problem, terms: EnergyTerms, fastest: Plan) -> None:
        self.problem, self.terms, self.fastest = problem, terms, fastest
        self.best: Plan | None = None

    @property
    def cost(self) -> float:
        """Cost of the best plan; infinite while there is none."""
        return np.inf if self.best is None else self.terms.cost(self.problem, self.best)

    def consider(self, decisions: Sequence[Decision], main_owner_M: IntArray, fed_owner_M: IntArray) -> None:
        """Keep the best of the cuts and ranks on these owners if it beats what is known."""
        problem, terms, share_K = self.problem, self.terms, self.fastest.server_share_K
        for cut, rank in decisions:
            if _least_cost(problem, terms, cut, rank) >= self.cost:
                continue
            if self.best is not None and terms.budgeted:  # Without budgets it costs less, and is known sooner.
                free = terms.without_budgets()
                loose = economical_plan(problem, cut, rank, main_owner_M, fed_owner_M, free, share_K)
                if loose is None or terms.cost(problem, loose) >= self.cost:
                    continue
            plan = economical_plan(problem, cut, rank, main_owner_M, fed_owner_M, terms, share_K)
            if plan is not None and terms.cost(problem, plan) < self.cost:
                self.best = plan

    def run(self, decisions: Sequence[Decision], passes: int, clock: Clock | None) -> None:
        """Change owners, then cut and rank, until that no longer pays or the time is up."""
        for _ in range(passes):
            assert self.best is not None
            before, start = self.cost, self.best
            for owners in _cheaper_owners(self.problem, self.terms, start):
                if clock is not None and clock.expired:
                    return
                self.consider([(start.cut_K, start.rank_K)], *owners)
            if self.cost > before * (1 - _ENOUGH):
                return
            self.consider(decisions, self.best.main.owner_M, self.best.fed.owner_M)

    def search_long_rounds(self, decisions: Sequence[Decision]) -> None:
        """Look for a first plan on owners that need few joules where nobody is in a hurry."""
        problem, fastest = self.problem, self.fastest
        long_s, no_cap_K = 10.0 * fastest.phases.round_s, np.full(problem.num_clients, np.inf)
        for cut, rank in decisions:
            load, cap_w_K = load_of(problem, cut, rank), problem.tx_power_max_w_K
            ready_s_K = load.client_forward_flop_IK[0] / problem.client_flop_per_s_K
            done_s = float(np.max(ready_s_K)) + long_s / problem.local_steps
            bands = (
                band_problem(problem.main, ready_s_K, load.uplink_bits_IK[0], cap_w_K),
                band_problem(problem.fed, 0.0 * ready_s_K, load.fed_upload_bits_K, cap_w_K),
            )
            main = least_energy_owners(bands[0], fastest.main.owner_M, no_cap_K, done_s)
            fed = least_energy_owners(bands[1], fastest.fed.owner_M, no_cap_K, long_s)
            self.consider([(cut, rank)], main, fed)


def _least_cost(problem: Problem, terms: EnergyTerms, cut_K: IntArray | int, rank_K: IntArray | int) -> float:
    """What a cut and rank cost even if sending were free and took no time."""
    compute_s, compute_j_K, server_j = computing(problem, cut_K, rank_K)
    rounds, joules = rounds_of(problem, rank_K), float(compute_j_K.sum()) + server_j
    return rounds * (joules if terms.least == "energy" else compute_s + terms.weight_s_per_j * joules)


def computing(problem: Problem, cut_K: IntArray | int, rank_K: IntArray | int) -> tuple[float, Array, float]:
    """Computing in a round: no plan's delay is below it (s); the energy of each client and of the server (J)."""
    load, K = load_of(problem, cut_K, rank_K), problem.num_clients
    forward_K, backward_K = load.client_forward_flop_IK[0], load.client_backward_flop_IK[0]
    server_flop = float(load.server_forward_flop_I[0] + load.server_backward_flop_I[0])
    forward_s_K, backward_s_K = (flop_K / problem.client_flop_per_s_K for flop_K in (forward_K, backward_K))
    server_s = server_flop / problem.server_flop_per_s
    if problem.share_server:  # All shares together are the whole server.
        own_s_K = forward_s_K + backward_s_K
        step_s = max(float(np.max(own_s_K)), server_s + float(np.min(own_s_K)))
    else:
        step_s = float(np.max(forward_s_K) + np.max(backward_s_K)) + server_s
    per_flop_K = np.zeros(K) if problem.client_energy_j_per_flop_K is None else problem.client_energy_j_per_flop_K
    steps = problem.local_steps
    return (
        steps * step_s,
        steps * (forward_K + backward_K) * per_flop_K,
        steps * server_flop * problem.server_energy_j_per_flop,
    )


def _cheaper_owners(problem: Problem, terms: EnergyTerms, plan: Plan) -> Iterator[tuple[IntArray, IntArray]]:
    """Owners of both bands that need fewer joules at times around those of a plan; one band is changed at a time."""
    load, cap_w_K, steps = load_of(problem, plan.cut_K, plan.rank_K), problem.tx_power_max_w_K, problem.local_steps
    efficiency = problem.draw.amplifier_efficiency
    main_j_K = steps * plan.main.power_w_K(problem.num_clients) * plan.phases.uplink_s[0] / efficiency
    fed_j_K = plan.energy.client_radio_j_K - main_j_K
    left_j_K = terms.budget_j - plan.energy.client_compute_j_K
    ready_s_K, _ = around_activations(plan.phases)
    main_s = float(np.max(plan.phases.uplink_s[0] + ready_s_K) - np.max(ready_s_K))
    fed_s = float(np.max(plan.phases.fed_upload_s))
    main, fed = plan.main.owner_M, plan.fed.owner_M
    main_band = band_problem(problem.main, ready_s_K, load.uplink_bits_IK[0], cap_w_K)
    fed_band = band_problem(problem.fed, np.zeros(problem.num_clients), load.fed_upload_bits_K, cap_w_K)
    for factor in _SOONER if np.any(main_band.need_K > 0) else ():
        done_s, cap_j_K = float(np.max(ready_s_K)) + factor * main_s, (left_j_K - fed_j_K) * efficiency / steps
        yield least_energy_owners(main_band, main, cap_j_K, done_s), fed
    for factor in _SOONER if np.any(fed_band.need_K > 0) else ():
        yield main, least_energy_owners(fed_band, fed, (left_j_K - main_j_K) * efficiency, factor * fed_s)


def least_energy_owners(problem: BandProblem, owner_M: IntArray, cap_j_K: Array, done_s: float) -> IntArray:
    """Owners, found by local search from given ones, with which being done by a time takes few joules.

    `cap_j_K` limits the energy of each client's transfer (J); all clients start before `done_s`.
    """
    if not np.any(problem.need_K > 0):
        return owner_M
    joules = in_joules(problem, done_s)
    cap_j_K = np.minimum(joules.cap_w_K, np.maximum(cap_j_K, 0.0))
    excess_K = np.full(len(cap_j_K), _EXCESS_PRICE)
    no_total = 0.0  # which would end the search early
    demand = Demand(joules.log_KM, joules.inverse_KM, joules.need_K, cap_j_K, no_total, excess_K, joules.limit)
    return search(demand, np.asarray(owner_M, dtype=np.int64), max(2, min(20, 200_000 // joules.log_KM.size)), 1)


def _why_none(problem: Problem, terms: EnergyTerms, decisions: Sequence[Decision]) -> str:
    """Which limit is in the way: computing alone breaks it, or no plan was found."""
    least = [computing(problem, cut, rank) for cut, rank in decisions]
    client_j = min(float(np.max(compute_j_K)) for _, compute_j_K, _ in least)
    total_j = min(float(np.sum(compute_j_K)) + server_j for _, compute_j_K, server_j in least)
    compute_s = min(compute_s for compute_s, _, _ in least)
    for what, needed, most, unit in (
        ("energy budget of a client", client_j, terms.budget_j, "J"),
        ("energy budget of all together", total_j, terms.total_budget_j, "J"),
        ("deadline", compute_s, terms.deadline_s, "s"),
    ):
        if needed > most:
            return f"the {what} is {most:.6g} {unit} a round, computing alone takes {needed:.6g} {unit} at least"
    limits = (
        ("energy_budget_j", terms.budget_j, "J"),
        ("total_energy_budget_j", terms.total_budget_j, "J"),
        ("round_deadline_s", terms.deadline_s, "s"),
    )
    named = ", ".join(f"{name} {most:.6g} {unit}" for name, most, unit in limits if np.isfinite(most))
    return f"no plan was found within {named}; computing alone takes at least {compute_s:.6g} s and {client_j:.6g} J"
