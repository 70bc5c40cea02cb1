"""A decision with one choice per client, and its delay with the best powers on given owners of the subchannels.

Shape suffixes: K clients, M subchannels; the options of a decision have C = 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from wavetune.allocation.band import BandTables
from wavetune.allocation.both_ways import BothWays
from wavetune.allocation.delay import (
    downlink_rate_bit_per_s_K,
    load_of,
    optimal_shares,
    transfer_s,
    uplink_rate_bit_per_s_K,
)
from wavetune.allocation.feasibility import memory_need_bytes_K, usable_subchannels
from wavetune.allocation.ladder import owners_delay
from wavetune.allocation.pipelines import balance, can_end
from wavetune.allocation.plan import Plan, rounds_of
from wavetune.allocation.power import allocate_power, with_best_power
from wavetune.allocation.problem import BoolArray, IntArray, Problem, RadioBand
from wavetune.allocation.water_filling import BandProblem, optimal_power
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
        allowed_KC: whether the client has the memory, and can be heard in a band where it would have something to send.
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


def given_options(problem: Problem, pairs: Sequence[tuple[IntArray | int, IntArray | int]]) -> list[Options]:
    """Options with one choice each, C = 1, which are taken to be allowed: pairs of cuts and ranks.

    These are the same for all clients or, of all pairs, one per client.
    """
    cut_PK, rank_PK = (np.array([np.atleast_1d(x) for x in one]) for one in zip(*pairs, strict=True))
    load, speed_K = load_of(problem, cut_PK, rank_PK), problem.client_flop_per_s_K
    cut_PK, rank_PK = (np.array(np.broadcast_to(x, (len(x), problem.num_clients))) for x in (cut_PK, rank_PK))
    server_flop_PK = (load.server_forward_flop_IK + load.server_backward_flop_IK)[0]
    columns_PKC = {
        "cut_KC": cut_PK,
        "ready_s_KC": load.client_forward_flop_IK[0] / speed_K,
        "back_s_KC": load.client_backward_flop_IK[0] / speed_K,
        "work_s_KC": server_flop_PK / problem.server_flop_per_s,
        "up_bits_KC": load.uplink_bits_IK[0],
        "down_bits_KC": load.downlink_bits_IK[0],
        "fed_bits_KC": load.fed_upload_bits_K,
        "allowed_KC": np.ones(cut_PK.shape, np.bool_),
    }
    return [
        Options(
            rank_K=rank_K,
            rounds=rounds_of(problem, rank_K),
            **{name: of_PK[p][:, None] for name, of_PK in columns_PKC.items()},
        )
        for p, rank_K in enumerate(rank_PK)
    ]


def fixed_options(problem: Problem, cut_K: IntArray | int, rank_K: IntArray | int) -> Options:
    """Given cuts and ranks, per client or the same for all, and whether they are allowed: C = 1."""
    (one,) = given_options(problem, [(cut_K, rank_K)])
    allowed_K = _remembers_K(problem, one.cut_KC[:, 0], one.rank_K) & _is_heard_K(problem, one)
    return replace(one, allowed_KC=allowed_K[:, None])


def _remembers_K(problem: Problem, cut_K: IntArray, rank_K: IntArray) -> BoolArray:
    return memory_need_bytes_K(problem, cut_K, rank_K) <= problem.memory_bytes_K


def _is_heard_K(problem: Problem, one: Options) -> BoolArray:
    """Whether every band that a client would send in has a subchannel for it."""
    sent = ((problem.main, one.up_bits_KC[:, 0]), (problem.fed, one.fed_bits_KC[:, 0]))
    usable = (
        np.any(usable_subchannels(band, problem.tx_power_max_w_K), axis=1) | (bits_K <= 0) for band, bits_K in sent
    )
    return np.logical_and(*usable)


@dataclass(frozen=True, eq=False)
class Decision:
    """One choice per client, with owners of both bands and, where it is shared, shares of the server."""

    options: Options
    main_owner_M: IntArray
    fed_owner_M: IntArray
    share_K: Array | None
    step_s: float
    fed_s: float
    delay_s: float


class Evaluator:
    """A problem's bands with their tables; everything that a decision's delay depends on besides its options."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.main = BandTables(problem.main, problem.tx_power_max_w_K)
        self.fed = BandTables(problem.fed, problem.tx_power_max_w_K)

    def decide(
        self, options: Options, main_owner_M: IntArray, fed_owner_M: IntArray, share_K: Array | None = None
    ) -> Decision:
        """The decision with the best powers on given owners; shares start from the given ones."""
        problem = self.problem
        fed_s = self.fed_s(options, fed_owner_M)
        step_s, share_K = self._step(options, main_owner_M, share_K)
        delay_s = options.rounds * (problem.local_steps * step_s + fed_s)
        return Decision(options, main_owner_M, fed_owner_M, share_K, step_s, fed_s, delay_s)

    def main_problem(
        self, options: Options, main_owner_M: IntArray | None = None, share_K: Array | None = None
    ) -> BandProblem:
        """BandProblem of the activations; with owners and shares, what follows them counts as if it came before."""
        ready_s_K = options.ready_s_KC[:, 0]
        if main_owner_M is not None and share_K is not None:
            served_s_K = transfer_s(options.work_s_KC[:, 0], share_K)
            ready_s_K = ready_s_K + served_s_K + self.back_s_K(options, main_owner_M)
        return self.main.problem(ready_s_K, options.up_bits_KC[:, 0])

    def fed_problem(self, options: Options) -> BandProblem:
        """BandProblem of the adapters."""
        return self.fed.problem(np.zeros(options.num_clients), options.fed_bits_KC[:, 0])

    def back_s_K(self, options: Options, main_owner_M: IntArray) -> Array:
        """From the server's end to the end of each client's backward pass (s)."""
        return self._down_s(self.problem.main, options.down_bits_KC[:, 0], main_owner_M) + options.back_s_KC[:, 0]

    def band_s(self, tables: BandTables, band_problem: BandProblem, owner_M: IntArray) -> float:
        """Least delay of a band problem for given owners (s)."""
        return (
            owners_delay(band_problem, owner_M)
            if np.any(band_problem.need_K > 0)
            else float(np.max(band_problem.ready_K))
        )

    def fed_s(self, options: Options, fed_owner_M: IntArray) -> float:
        """Seconds of the adapter exchange with the best powers on given owners."""
        up_s = self.band_s(self.fed, self.fed_problem(options), fed_owner_M)
        down_bits_K = options.fed_bits_KC[:, 0] * self.problem.costs.download_share
        return up_s + float(np.max(self._down_s(self.problem.fed, down_bits_K, fed_owner_M)))

    def ways(self, options: Options) -> BothWays:
        """Both ways of a step in the main band; without a price the way back takes no time."""
        down_bits_K = options.down_bits_KC[:, 0] * self.problem.price_downlink
        return BothWays(self.main.band, self.main_problem(options), down_bits_K, options.back_s_KC[:, 0])

    def plan_of(self, decision: Decision) -> Plan:
        """The decision as a plan."""
        options, owners = decision.options, (decision.main_owner_M, decision.fed_owner_M)
        ready_s_K = self.main_problem(options, decision.main_owner_M, decision.share_K).ready_K
        return with_best_power(self.problem, options.cut_KC[:, 0], options.rank_K, *owners, ready_s_K)

    def balance_shares(self, decision: Decision) -> Decision:
        """The decision with powers and shares of the server chosen together, for its owners."""
        options, owner_M = decision.options, decision.main_owner_M
        if decision.share_K is None or not np.isfinite(decision.step_s):
            return decision
        band_problem, work_s_K = self._pipelines(options, owner_M), options.work_s_KC[:, 0]
        air_s_K = balance(band_problem, work_s_K, owner_M, decision.step_s)
        share_K = optimal_shares(work_s_K, band_problem.ready_K + air_s_K)
        better = self.decide(options, owner_M, decision.fed_owner_M, share_K)
        return min(better, decision, key=lambda d: d.delay_s)

    def can_beat(self, options: Options, decision: Decision) -> bool:
        """Whether other options might be faster than a decision's on its owners, with whatever shares."""
        if decision.share_K is None:
            return True
        fed_s = self.fed_s(options, decision.fed_owner_M)
        step_s = (decision.delay_s * (1 - 1e-6) / options.rounds - fed_s) / self.problem.local_steps
        band_problem = self._pipelines(options, decision.main_owner_M)
        return can_end(band_problem, options.work_s_KC[:, 0], decision.main_owner_M, step_s)

    def _pipelines(self, options: Options, main_owner_M: IntArray) -> BandProblem:
        """BandProblem of the activations where all but airtime and service counts as if it came before."""
        ready_s_K = options.ready_s_KC[:, 0] + self.back_s_K(options, main_owner_M)
        return self.main.problem(ready_s_K, options.up_bits_KC[:, 0])

    def _step(self, options: Options, main_owner_M: IntArray, share_K: Array | None) -> tuple[float, Array | None]:
        back_s_K, work_s_K = self.back_s_K(options, main_owner_M), options.work_s_KC[:, 0]
        if not self.problem.share_server:
            up_s = self.band_s(self.main, self.main_problem(options, main_owner_M, None), main_owner_M)
            up_s = max(up_s, float(np.max(options.ready_s_KC)))
            return up_s + float(np.sum(work_s_K)) + float(np.max(back_s_K)), None
        air_s_K = self._air_s_K(options, main_owner_M, share_K)
        other_s_K = options.ready_s_KC[:, 0] + air_s_K + back_s_K
        share_K = optimal_shares(work_s_K, other_s_K)
        return float(np.max(other_s_K + transfer_s(work_s_K, share_K))), share_K

    def _air_s_K(self, options: Options, main_owner_M: IntArray, share_K: Array | None) -> Array:
        """Airtime of the activations with the powers that are best for given shares, or for serving together (s)."""
        band_problem, bits_K = self.main_problem(options, main_owner_M, share_K), options.up_bits_KC[:, 0]
        if self.problem.main.ladder is None:
            _, power_w_M, _ = optimal_power(band_problem, main_owner_M)
        else:
            caps_w_K = self.problem.tx_power_max_w_K
            main, _ = allocate_power(self.problem.main, main_owner_M, band_problem.ready_K, bits_K, caps_w_K)
            power_w_M, main_owner_M = main.power_w_M, main.owner_M
        return transfer_s(bits_K, uplink_rate_bit_per_s_K(self.problem.main, main_owner_M, power_w_M))

    def _down_s(self, band: RadioBand, bits_K: Array, owner_M: IntArray) -> Array:
        if not self.problem.price_downlink:
            return np.zeros(len(bits_K))
        return transfer_s(bits_K, downlink_rate_bit_per_s_K(band, owner_M))
