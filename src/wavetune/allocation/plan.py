"""A plan: the decision, what it costs, and how much better any other plan could be.

Shape suffixes: K clients, M subchannels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from wavetune.allocation.delay import (
    Energy,
    Phases,
    RoundLoad,
    Speeds,
    downlink_rate_bit_per_s_K,
    load_of,
    optimal_shares,
    round_energy,
    round_phases,
    uplink_rate_bit_per_s_K,
)
from wavetune.allocation.problem import BoolArray, IntArray, Problem, RadioBand
from wavetune.units import Array


@dataclass(frozen=True)
class Allocation:
    """Owner (client index, -1 for none) and power (W) of each of a band's M subchannels."""

    owner_M: IntArray
    power_w_M: Array

    def power_w_K(self, num_clients: int) -> Array:
        """Power of each client in this band (W)."""
        used_M = self.owner_M >= 0
        power_w_K = np.zeros(num_clients)
        np.add.at(power_w_K, self.owner_M[used_M], self.power_w_M[used_M])
        return power_w_K


@dataclass(frozen=True)
class Plan:
    """The outcome of planning.

    Args:
        status: "ok", or "infeasible" where no plan exists (all arrays are then empty, the delay infinite).
        reason: names the binding limits of an infeasible problem; empty otherwise.
        delay_s: total delay to the target loss, E(r) times the round's.
        lower_bound_s: no feasible plan has a smaller delay.
        cut_K, rank_K: per client.
        main, fed: who sends where, with which power.
        phases: seconds of one local step and of the adapter exchange.
        energy: joules of one round.
        server_share_K: each client's share of the main server; None where it works on all batches together.
        active_K: who takes part; None for all.
    """

    status: Literal["ok", "infeasible"]
    reason: str
    delay_s: float
    lower_bound_s: float
    cut_K: IntArray
    rank_K: IntArray
    main: Allocation
    fed: Allocation
    phases: Phases
    energy: Energy
    server_share_K: Array | None = None
    active_K: BoolArray | None = None

    @property
    def gap(self) -> float:
        """Share of the delay that is not proved necessary: 1 - lower_bound_s / delay_s."""
        return 1.0 - self.lower_bound_s / self.delay_s if 0 < self.delay_s < np.inf else 0.0


def evaluate(
    problem: Problem,
    cut_K: IntArray | int,
    rank_K: IntArray | int,
    main: Allocation,
    fed: Allocation,
    server_share_K: Array | None = None,
) -> tuple[Phases, float]:
    """Phases of a round and the total delay E(r) * round (s) of a decision.

    Clients with different ranks need the rounds of the slowest to learn among them.
    """
    phases = round_phases(load_of(problem, cut_K, rank_K), speeds_of(problem, main, fed, server_share_K))
    return phases, rounds_of(problem, rank_K) * phases.round_s


def rounds_of(problem: Problem, rank_K: IntArray | int) -> float:
    """Rounds to the target: those of the slowest rank to learn."""
    return max(problem.rounds_to_target[int(r)] for r in np.unique(rank_K))


def charge(
    problem: Problem,
    load: RoundLoad,
    main: Allocation,
    fed: Allocation,
    server_share_K: Array | None = None,
    beside_s: float = 0.0,
) -> tuple[Phases, Energy]:
    """Seconds and joules of a load under a decision, in a round that takes so many seconds beside what is planned."""
    K, joules_per_flop_K = problem.num_clients, problem.client_energy_j_per_flop_K
    phases = round_phases(load, speeds_of(problem, main, fed, server_share_K))
    energy = round_energy(
        load,
        phases,
        main.power_w_K(K),
        fed.power_w_K(K),
        0.0 if joules_per_flop_K is None else joules_per_flop_K,
        problem.server_energy_j_per_flop,
        downlink_power_w_K(problem.main, main, K),
        downlink_power_w_K(problem.fed, fed, K),
        problem.draw,
        beside_s,
    )
    return phases, energy


def make_plan(
    problem: Problem,
    cut_K: IntArray | int,
    rank_K: IntArray | int,
    main: Allocation,
    fed: Allocation,
    lower_bound_s: float = 0.0,
    server_share_K: Array | None = None,
) -> Plan:
    """Plan of a decision with phases, delay, energy; a shared server has the best shares unless others are given."""
    K = problem.num_clients
    if problem.share_server and server_share_K is None:
        server_share_K = best_shares(problem, cut_K, rank_K, main, fed)
    phases, energy = charge(problem, load_of(problem, cut_K, rank_K), main, fed, server_share_K)
    cut_K, rank_K = (np.array(np.broadcast_to(x, K), dtype=np.int64) for x in (cut_K, rank_K))
    delay_s = rounds_of(problem, rank_K) * phases.round_s
    bound_s = min(lower_bound_s, delay_s)
    return Plan("ok", "", delay_s, bound_s, cut_K, rank_K, main, fed, phases, energy, server_share_K)


def best_shares(
    problem: Problem, cut_K: IntArray | int, rank_K: IntArray | int, main: Allocation, fed: Allocation
) -> Array:
    """The shares of the server that end a step soonest under given cuts, ranks and allocations."""
    whole_K = np.ones(problem.num_clients)
    phases = round_phases(load_of(problem, cut_K, rank_K), speeds_of(problem, main, fed, whole_K))
    work_s_K = phases.server_forward_s[0] + phases.server_backward_s[0]
    return optimal_shares(work_s_K, phases.pipeline_s[0] - work_s_K)


def infeasible(reason: str) -> Plan:
    """The plan that says why there is none."""
    none, empty = np.zeros(0, dtype=np.int64), np.zeros(0)
    nowhere, no_step = Allocation(none, empty), np.zeros((0, 0))
    phases = Phases(no_step, no_step, empty, empty, no_step, no_step, empty, empty)
    return Plan(
        "infeasible", reason, np.inf, np.inf, none, none, nowhere, nowhere, phases, Energy(empty, empty, 0.0, 0.0)
    )


def speeds_of(problem: Problem, main: Allocation, fed: Allocation, server_share_K: Array | None = None) -> Speeds:
    """How fast every part works under an allocation; the way back is infinitely fast where it is not priced."""
    unpriced_K = np.full(problem.num_clients, np.inf)
    priced = problem.price_downlink
    return Speeds(
        client_flop_per_s_K=problem.client_flop_per_s_K,
        server_flop_per_s=problem.server_flop_per_s,
        uplink_bit_per_s_K=uplink_rate_bit_per_s_K(problem.main, main.owner_M, main.power_w_M),
        downlink_bit_per_s_K=downlink_rate_bit_per_s_K(problem.main, main.owner_M) if priced else unpriced_K,
        fed_up_bit_per_s_K=uplink_rate_bit_per_s_K(problem.fed, fed.owner_M, fed.power_w_M),
        fed_down_bit_per_s_K=downlink_rate_bit_per_s_K(problem.fed, fed.owner_M) if priced else unpriced_K,
        server_share_K=server_share_K,
    )


def downlink_power_w_K(band: RadioBand, allocation: Allocation, num_clients: int) -> Array:
    """The server's power on each client's subchannels, spread evenly over the band (W)."""
    even_w = np.full(band.num_subchannels, band.downlink_power_w / band.num_subchannels)
    return Allocation(allocation.owner_M, even_w).power_w_K(num_clients)
