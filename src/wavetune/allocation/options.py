"""What every client may choose: each cut's seconds, bits and work at the server. Shape suffixes: K clients, C cuts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from wavetune.allocation.delay import load_of
from wavetune.allocation.feasibility import BoolArray, memory_need_bytes_K
from wavetune.allocation.problem import IntArray, Problem
from wavetune.units import Array


@dataclass(frozen=True, eq=False)
class Options:
    """Cuts at given ranks.

    Args:
        cut_KC: number of layers on the client.
        rank_K: of each client.
        rounds: E of the slowest learner among the ranks.
        ready_s_KC: forward pass on the client (s).
        back_s_KC: backward pass on the client (s).
        work_s_KC: both passes on the client's batch at the server, at the server's whole speed (s).
        up_bits_KC, down_bits_KC: what crosses the cut in a local step, each way.
        fed_bits_KC: adapters, once a round, each way.
        allowed_KC: whether the client has the memory.
    """

    cut_KC: IntArray
    rank_K: IntArray
    rounds: float
    ready_s_KC: Array
    back_s_KC: Array
    work_s_KC: Array
    up_bits_KC: Array
    down_bits_KC: Array
    fed_bits_KC: Array
    allowed_KC: BoolArray

    @property
    def num_clients(self) -> int:
        """K."""
        return len(self.cut_KC)

    @property
    def num_cuts(self) -> int:
        """C."""
        return self.cut_KC.shape[1]

    def choice_of(self, other: Options) -> IntArray:
        """Where each client's cut of other options with C = 1 stands among these."""
        return np.argmax(self.cut_KC == other.cut_KC, axis=1)

    def of(self, choice_K: IntArray) -> Options:
        """The same with one choice per client, C = 1."""
        chosen = {n: np.take_along_axis(x, choice_K[:, None], axis=1) for n, x in vars(self).items() if "_KC" in n}
        return replace(self, **chosen)


def options_of(problem: Problem, rank: int) -> Options:
    """All allowed cuts at a common rank."""
    parts = [fixed_options(problem, cut, rank) for cut in problem.cuts]
    stacked = {n: np.concatenate([vars(p)[n] for p in parts], axis=1) for n in vars(parts[0]) if n.endswith("_KC")}
    return replace(parts[0], **stacked)


def fixed_options(problem: Problem, cut_K: IntArray | int, rank_K: IntArray | int) -> Options:
    """Given cuts and ranks, per client or the same for all: C = 1."""
    load, speed_K = load_of(problem, cut_K, rank_K), problem.client_flop_per_s_K
    cut_K, rank_K = (np.array(np.broadcast_to(x, problem.num_clients), dtype=np.int64) for x in (cut_K, rank_K))
    server_flop_K = (load.server_forward_flop_IK + load.server_backward_flop_IK)[0]
    return Options(
        cut_KC=cut_K[:, None],
        rank_K=rank_K,
        rounds=max(problem.rounds_to_target[int(r)] for r in np.unique(rank_K)),
        ready_s_KC=(load.client_forward_flop_IK[0] / speed_K)[:, None],
        back_s_KC=(load.client_backward_flop_IK[0] / speed_K)[:, None],
        work_s_KC=(server_flop_K / problem.server_flop_per_s)[:, None],
        up_bits_KC=load.uplink_bits_IK[0][:, None],
        down_bits_KC=load.downlink_bits_IK[0][:, None],
        fed_bits_KC=load.fed_upload_bits_K[:, None],
        allowed_KC=(memory_need_bytes_K(problem, cut_K, rank_K) <= problem.memory_bytes_K)[:, None],
    )
