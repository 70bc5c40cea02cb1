"""Whether any plan exists, and whether a given one keeps the constraints. Shape suffixes: K clients, M subchannels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wavetune.allocation.delay import load_of, uplink_rate_bit_per_s_K
from wavetune.allocation.participants import of_participants
from wavetune.allocation.plan import Allocation, Plan
from wavetune.allocation.problem import BoolArray, IntArray, Problem, RadioBand
from wavetune.errors import PlanError
from wavetune.units import Array

# Below this signal-to-noise ratio at full power a subchannel counts as unusable: a bit would outlast the universe.
_LEAST_SNR = 1e-100
CAP_TOLERANCE = 1e-6  # Relative excess of a cap that a plan is forgiven.


@dataclass(frozen=True)
class Feasibility:
    """The (cut, rank) pairs for which some allocation exists and, where there are none, the limits that bind."""

    pairs: tuple[tuple[int, int], ...]
    reason: str


def check_feasible(problem: Problem) -> Feasibility:
    """Which pairs of cut and rank have a feasible allocation.

    A pair is feasible if it fits every client's memory and, in each band, the clients with something to send can be
    given distinct subchannels on which they have power and gain (Hall's condition, by maximum matching).
    """
    candidates = [(cut, rank) for cut in problem.cuts for rank in problem.ranks]
    cut_P1, rank_P1 = (np.array(one)[:, None] for one in zip(*candidates, strict=True))
    over_P, load = _over_memory(problem, candidates), load_of(problem, cut_P1, rank_P1)
    known: dict[tuple[str, bytes], str] = {}
    sends_PK = (load.uplink_bits_IK[0] > 0, load.fed_upload_bits_K > 0)
    pairs = tuple(
        pair
        for p, pair in enumerate(candidates)
        if not over_P[p] and not _band_reason(problem, sends_PK[0][p], sends_PK[1][p], known)
    )
    # The first reason is that of the smallest cut and rank, which asks the least memory of every client.
    first_K = [np.full(problem.num_clients, one) for one in candidates[0]]
    return Feasibility(pairs, "" if pairs else why_infeasible(problem, *first_K))


def pairs_within_memory(problem: Problem) -> list[tuple[int, int]]:
    """The pairs of cut and rank that fit every client's memory."""
    candidates = [(cut, rank) for cut in problem.cuts for rank in problem.ranks]
    return [pair for pair, over in zip(candidates, _over_memory(problem, candidates), strict=True) if not over]


def _over_memory(problem: Problem, pairs: Sequence[tuple[int, int]]) -> BoolArray:
    cut_P1, rank_P1 = (np.array(one)[:, None] for one in zip(*pairs, strict=True))
    return np.any(memory_need_bytes_K(problem, cut_P1, rank_P1) > problem.memory_bytes_K, axis=1)


def why_infeasible(problem: Problem, cut_K: IntArray, rank_K: IntArray) -> str:
    """Why given cuts and ranks, one per client, have no feasible allocation; empty where they have one."""
    need_K = memory_need_bytes_K(problem, cut_K, rank_K)
    over = np.flatnonzero(need_K > problem.memory_bytes_K)
    if len(over):
        return _memory_sentence(problem, over, need_K, f"cut {cut_K[over[0]]} with rank {rank_K[over[0]]}")
    load = load_of(problem, cut_K, rank_K)
    return _band_reason(problem, load.uplink_bits_IK[0] > 0, load.fed_upload_bits_K > 0, {})


def usable_subchannels(band: RadioBand, tx_power_max_w_K: Array) -> BoolArray:
    """Where a client would have a positive rate, [K, M]."""
    power_w_K = np.minimum(tx_power_max_w_K, band.total_power_max_w)
    least = _LEAST_SNR if band.ladder is None else float(band.ladder.snr_I[0]) / band.envelope.gap * (1 - 1e-9)
    return band.snr_per_w_KM * power_w_K[:, None] > least


def match_subchannels(usable_KM: BoolArray) -> IntArray:
    """A distinct usable subchannel for as many clients as possible, [K]; -1 for a client that gets none.

    >>> match_subchannels(np.array([[True, True], [True, False]])).tolist()
    [1, 0]
    """
    # importing scipy takes longer than reading a recipe, which reaches this file
    from scipy.sparse import csr_array  # pyright: ignore[reportMissingTypeStubs]
    from scipy.sparse.csgraph import (  # pyright: ignore[reportMissingTypeStubs]
        maximum_bipartite_matching,  # pyright: ignore[reportUnknownVariableType]
    )

    return np.asarray(maximum_bipartite_matching(csr_array(usable_KM), perm_type="column"), dtype=np.int64)


def violations(problem: Problem, plan: Plan) -> list[str]:
    """Constraints that a plan breaks, a sentence each; empty for a feasible plan. An excess of 1e-6 is forgiven."""
    load = load_of(problem, plan.cut_K, plan.rank_K)
    found = [f"cut {c} is not allowed" for c in np.unique(plan.cut_K) if c not in problem.cuts]
    found += [f"rank {r} is not allowed" for r in np.unique(plan.rank_K) if r not in problem.ranks]
    need_K = memory_need_bytes_K(problem, plan.cut_K, plan.rank_K)
    found += [f"client {k} lacks memory" for k in np.flatnonzero(need_K > problem.memory_bytes_K * (1 + CAP_TOLERANCE))]
    for name, band, allocation, bits_K in (
        ("main", problem.main, plan.main, load.uplink_bits_IK[0]),
        ("fed", problem.fed, plan.fed, load.fed_upload_bits_K),
    ):
        found += [f"{name} band: {what}" for what in _band_violations(problem, band, allocation, bits_K)]
    return found


def memory_need_bytes_K(problem: Problem, cut_K: IntArray | int, rank_K: IntArray | int) -> Array:
    """Memory that each client needs for its cut and rank (bytes), [K]; of several decisions [..., K]."""
    fixed, per_rank = (problem.costs.before[name] for name in ("memory_bytes_L", "memory_bytes_per_rank_L"))
    return fixed[cut_K] + rank_K * per_rank[cut_K] + np.zeros(problem.num_clients)


def _memory_sentence(problem: Problem, over: IntArray, need_K: Array, what: str) -> str:
    k = over[0]
    others = f" (and {len(over) - 1} more clients)" if len(over) > 1 else ""
    return f"memory: client {k} has {problem.memory_bytes_K[k]:.6g} bytes{others}, {what} needs {need_K[k]:.6g}"


def _band_reason(
    problem: Problem, sends_main_K: BoolArray, sends_fed_K: BoolArray, known: dict[tuple[str, bytes], str]
) -> str:
    for name, what, band, sends_K in (
        ("main", "activations", problem.main, sends_main_K),
        ("fed", "adapters", problem.fed, sends_fed_K),
    ):
        key = (name, sends_K.tobytes())
        if key not in known:
            known[key] = _unmatched_reason(band, problem.tx_power_max_w_K, sends_K, f"with {what} to send")
        if known[key]:
            return f"{name} band: {known[key]}"
    return ""


def _unmatched_reason(band: RadioBand, tx_power_max_w_K: Array, sends_K: BoolArray, sending: str) -> str:
    senders = np.flatnonzero(sends_K)
    if len(senders) > band.num_subchannels:
        return f"{band.num_subchannels} subchannels for {len(senders)} clients {sending}"
    if len(senders) and band.total_power_max_w <= 0:
        return f"total_power_max_w is 0 for {len(senders)} clients {sending}"
    for k in senders[tx_power_max_w_K[senders] <= 0]:
        return f"tx_power_max_w of client {k} {sending} is 0"
    usable_KM = usable_subchannels(band, tx_power_max_w_K)[senders]
    count_K = usable_KM.sum(axis=1)
    for k in senders[count_K == 0]:
        if band.ladder is None:
            return f"client {k} {sending} has zero gain on every subchannel"
        return f"client {k} {sending} reaches the least signal-to-noise ratio of its rate on no subchannel"
    if np.all(count_K >= len(senders)):
        return ""
    crowd, reach = hall_violator(usable_KM)
    if not len(crowd):
        return ""
    names = ", ".join(str(k) for k in senders[crowd])
    return f"clients {names} {sending} have positive gain on only {reach} subchannels among them"


def hall_violator(usable_KM: BoolArray) -> tuple[IntArray, int]:
    """Clients that together reach fewer subchannels than they are, and how many they reach; empty where none exist."""
    column_of = match_subchannels(usable_KM)
    free = np.flatnonzero(column_of < 0)
    if not len(free):
        return free, 0
    crowd: BoolArray = np.arange(len(usable_KM)) == free[0]
    while True:
        reach_M: BoolArray = np.any(usable_KM[crowd], axis=0)
        grown: BoolArray = crowd | ((column_of >= 0) & reach_M[column_of])
        if np.array_equal(grown, crowd):
            return np.flatnonzero(crowd), int(reach_M.sum())
        crowd = grown


def _band_violations(problem: Problem, band: RadioBand, allocation: Allocation, bits_K: Array) -> list[str]:
    owner_M, power_w_M, K = allocation.owner_M, allocation.power_w_M, problem.num_clients
    shape = (band.num_subchannels,)
    if owner_M.shape != shape or power_w_M.shape != shape or not np.all((owner_M >= -1) & (owner_M < K)):
        return [f"owner and power_w must have {shape[0]} entries, owners from -1 to {K - 1}"]
    found: list[str] = []
    if not np.all(power_w_M >= 0) or np.any(power_w_M[owner_M < 0] > 0):
        found.append("a power is negative, not a number, or spent where there is no owner")
    over_K = allocation.power_w_K(K) > problem.tx_power_max_w_K * (1 + CAP_TOLERANCE)
    found += [f"client {k} exceeds its power" for k in np.flatnonzero(over_K)]
    if power_w_M.sum() > band.total_power_max_w * (1 + CAP_TOLERANCE):
        found.append("the powers exceed the total")
    rate_K = uplink_rate_bit_per_s_K(band, owner_M, np.maximum(power_w_M, 0.0))
    found += [f"client {k} has bits but no rate" for k in np.flatnonzero((bits_K > 0) & ~(rate_K > 0))]
    return found


def require_feasible(problem: Problem, plan: Plan) -> Plan:
    """The plan itself, whatever planner made it, if it keeps every constraint of the problem.

    Raises: PlanError naming the first constraint that it breaks.
    """
    if plan.status == "ok" and (broken := violations(*of_participants(problem, plan))):
        raise PlanError(
            f"the plan breaks a constraint ({broken[0]}): a fault of the planner that made it, not of the input; "
            "please report it with the instance to whom the planner is from"
        )
    return plan
