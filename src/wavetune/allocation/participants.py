"""The problem and the plan of those clients alone that take part in a round.

Shape suffixes: K clients, M subchannels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from wavetune.allocation.delay import Energy, Phases
from wavetune.allocation.plan import Allocation, Plan, make_plan
from wavetune.allocation.problem import BoolArray, IntArray, Problem, RadioBand
from wavetune.units import Array


def problem_of(problem: Problem, clients: Sequence[int]) -> Problem:
    """The problem of some of the clients, in the order given."""
    kept, joules_K = list(clients), problem.client_energy_j_per_flop_K

    def rows(of_all_KM: Array | None) -> Array | None:
        return None if of_all_KM is None else of_all_KM[kept]

    def band(whole: RadioBand) -> RadioBand:
        return replace(
            whole,
            gain_KM=whole.gain_KM[kept],
            downlink_gain_KM=rows(whole.downlink_gain_KM),
            downlink_interference_w_KM=rows(whole.downlink_interference_w_KM),
        )

    return replace(
        problem,
        client_flop_per_s_K=problem.client_flop_per_s_K[kept],
        num_samples_K=problem.num_samples_K[kept],
        tx_power_max_w_K=problem.tx_power_max_w_K[kept],
        memory_bytes_K=problem.memory_bytes_K[kept],
        main=band(problem.main),
        fed=band(problem.fed),
        client_energy_j_per_flop_K=None if joules_K is None else joules_K[kept],
        batch_size_K=rows(problem.batch_size_K),
    )


def restrict_plan(plan: Plan, clients: Sequence[int]) -> Plan:
    """The decisions of a plan for some of its clients; subchannels of the others are nobody's. A warm start."""
    kept, share_K = list(clients), plan.server_share_K
    position_K = np.full(len(plan.cut_K) + 1, -1, dtype=np.int64)  # the last one for subchannels of nobody
    position_K[kept] = np.arange(len(kept))

    def among(whole: Allocation) -> Allocation:
        owner_M = position_K[whole.owner_M]
        return Allocation(owner_M, np.where(owner_M >= 0, whole.power_w_M, 0.0))

    return replace(
        plan,
        cut_K=plan.cut_K[kept],
        rank_K=plan.rank_K[kept],
        main=among(plan.main),
        fed=among(plan.fed),
        server_share_K=None if share_K is None else share_K[kept] / max(float(np.sum(share_K[kept])), 1e-300),
        active_K=None,
    )


def extend_plan(plan: Plan, clients: Sequence[int], cut_K: IntArray, rank_K: IntArray) -> Plan:
    """A plan of some clients as one of all: the others keep cut and rank, own nothing and take no time."""
    if plan.status != "ok":
        return plan
    kept, K = np.asarray(clients, dtype=np.int64), len(cut_K)
    active_K = np.zeros(K, dtype=np.bool_)
    active_K[kept] = True

    def spread(part: Array) -> Array:
        whole = np.zeros((*part.shape[:-1], K))
        whole[..., kept] = part
        return whole

    def among(part: Allocation) -> Allocation:
        return Allocation(np.where(part.owner_M >= 0, kept[part.owner_M], -1), part.power_w_M)

    phases, energy, whole_cut_K, whole_rank_K = plan.phases, plan.energy, cut_K.copy(), rank_K.copy()
    whole_cut_K[kept], whole_rank_K[kept] = plan.cut_K, plan.rank_K
    return replace(
        plan,
        cut_K=whole_cut_K,
        rank_K=whole_rank_K,
        main=among(plan.main),
        fed=among(plan.fed),
        phases=Phases(
            spread(phases.client_forward_s),
            spread(phases.uplink_s),
            spread(phases.server_forward_s) if phases.pipelined else phases.server_forward_s,
            spread(phases.server_backward_s) if phases.pipelined else phases.server_backward_s,
            spread(phases.downlink_s),
            spread(phases.client_backward_s),
            spread(phases.fed_upload_s),
            spread(phases.fed_download_s),
            phases.repeat,
        ),
        energy=Energy(
            spread(energy.client_compute_j_K),
            spread(energy.client_radio_j_K),
            energy.server_compute_j,
            energy.server_radio_j,
            None if energy.client_standby_j_K is None else spread(energy.client_standby_j_K),
        ),
        server_share_K=None if plan.server_share_K is None else spread(plan.server_share_K),
        active_K=active_K,
    )


def of_participants(problem: Problem, plan: Plan) -> tuple[Problem, Plan]:
    """Problem and plan of those alone that take part; both as they are where nobody was selected."""
    if plan.active_K is None:
        return problem, plan
    clients = np.flatnonzero(plan.active_K).tolist()
    part, few = restrict_plan(plan, clients), problem_of(problem, clients)
    return few, make_plan(few, part.cut_K, part.rank_K, part.main, part.fed, plan.lower_bound_s, part.server_share_K)


def plan_on_channel(problem: Problem, plan: Plan) -> Plan:
    """The decisions of a plan, who takes part included, on the channel of a problem."""
    decided = plan.cut_K, plan.rank_K, plan.main, plan.fed
    return plan_of_decisions(problem, *decided, 0.0, plan.server_share_K, plan.active_K)


def plan_of_decisions(
    problem: Problem,
    cut_K: IntArray,
    rank_K: IntArray,
    main: Allocation,
    fed: Allocation,
    lower_bound_s: float = 0.0,
    server_share_K: Array | None = None,
    active_K: BoolArray | None = None,
) -> Plan:
    """Plan of decisions for all clients, of which only some take part where `active_K` is given."""
    whole = make_plan(problem, cut_K, rank_K, main, fed, lower_bound_s, server_share_K)
    if active_K is None:
        return whole
    clients = np.flatnonzero(active_K).tolist()
    part = restrict_plan(whole, clients)
    made = make_plan(
        problem_of(problem, clients), part.cut_K, part.rank_K, part.main, part.fed, lower_bound_s, part.server_share_K
    )
    return extend_plan(made, clients, whole.cut_K, whole.rank_K)
