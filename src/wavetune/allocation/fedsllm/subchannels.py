"""FedsLLM's bandwidths on a band of many narrow subchannels, so that training can be planned and charged with them.

A client's share of a band becomes a block of whole subchannels with its full power spread evenly over them, which under
flat fading is exactly FDMA over the block's width. What differs from the continuous shares is the rounding alone. Under
frequency-selective fading a client is judged by its mean gain, as FedsLLM knows only one.
Source: the step from FedsLLM (arXiv 2407.09250) to subchannels is ours.
Shape suffixes: I local steps, K clients, M subchannels, 2 for the bands (main, fed).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from wavetune.allocation.delay import load_of
from wavetune.allocation.feasibility import check_feasible
from wavetune.allocation.fedsllm.learning_accuracy import LearningModel
from wavetune.allocation.fedsllm.planner import FedsllmProblem, plan_bandwidth, plan_fedsllm
from wavetune.allocation.plan import Allocation, Plan, infeasible, make_plan
from wavetune.allocation.problem import IntArray, Problem, RadioBand
from wavetune.errors import ConfigError
from wavetune.units import Array


@dataclass(frozen=True)
class Schedule:
    """The learning accuracy as training realises it: whole local steps a round, and the rounds that follow."""

    accuracy: float
    local_steps: int
    rounds: float

    @classmethod
    def of(cls, local_steps: int, learning: LearningModel) -> Schedule:
        """The accuracy that so many local steps reach."""
        return cls(learning.accuracy(local_steps), local_steps, learning.rounds(local_steps))

    @property
    def sentence(self) -> str:
        """What was chosen, in words."""
        return (
            f"learning accuracy {self.accuracy:.3f}: {self.local_steps} local steps a round, {self.rounds:.0f} rounds"
        )


def best_schedule(problem: Problem, learning: LearningModel) -> Schedule:
    """The accuracy of FedsLLM's optimum over the allowed cuts and ranks, its local iterations rounded up."""
    plans = [plan_fedsllm(fedsllm_problem(problem, cut, rank, learning)) for cut, rank in check_feasible(problem).pairs]
    best = min(plans, key=lambda plan: plan.delay_s, default=None)
    # A hair below a whole number is the number; where no plan exists, planning itself will say so.
    iterations = 1.0 if best is None or best.status != "ok" else best.local_iterations
    return Schedule.of(max(1, math.ceil(iterations - 1e-9)), learning)


def plan_subchannels(problem: Problem, learning: LearningModel) -> Plan:
    """FedsLLM's bandwidths for the problem's own number of local steps, on whole subchannels at full power.

    Args:
        problem: what to plan; every client needs something to send in both bands.
        learning: only its scale of accuracy matters here, and cancels.

    Returns:
        The plan of the best allowed cut and rank, or an infeasible one.
    """
    feasible = check_feasible(problem)
    if not feasible.pairs:
        return infeasible(feasible.reason)
    plans = [_plan(problem, cut, rank, learning) for cut, rank in feasible.pairs]
    return min(plans, key=lambda plan: plan.delay_s)


def fedsllm_problem(problem: Problem, cut: int, rank: int, learning: LearningModel) -> FedsllmProblem:
    """FedsLLM's view of a problem: both sides' compute of a local step, both payloads, one mean gain per client.

    Raises: ConfigError where clients have no adapters to send: it has no bandwidth for nothing.
    """
    load = load_of(problem, cut, rank)
    if not np.all(load.fed_upload_bits_K):
        raise ConfigError(
            f"the fedsllm planner divides the fed band by what clients send in it, and with cut {cut} and rank {rank} "
            "they send no adapters; let some be trained and shared before the cut, or choose another planner"
        )
    client_flop_K = load.client_forward_flop_IK[0] + load.client_backward_flop_IK[0]
    server_flop = float(load.server_forward_flop_I[0] + load.server_backward_flop_I[0])
    bands = (problem.main, problem.fed)
    return FedsllmProblem(
        iteration_s_K=client_flop_K / problem.client_flop_per_s_K + server_flop / problem.server_flop_per_s,
        bits_2K=np.stack(
            [load.uplink_bits_IK[0] / problem.main.envelope.share, load.fed_upload_bits_K / problem.fed.envelope.share]
        ),
        carrier_to_noise_hz_2K=np.stack(
            [_power_w_K(problem, b) * b.snr_per_w_KM.mean(axis=1) * b.subchannel_hz for b in bands]
        ),
        bandwidth_hz_2=np.array([b.num_subchannels * b.subchannel_hz for b in bands]),
        learning=learning,
        activations="every_iteration",
    )


def whole_subchannels(share_K: Array, num_subchannels: int) -> IntArray:
    """Whole subchannels near the shares of a band, at least one each; who falls shortest in proportion gets the next.

    >>> whole_subchannels(np.array([0.5, 0.49, 0.01]), 10).tolist()
    [5, 4, 1]
    """
    ideal_K = share_K / share_K.sum() * num_subchannels
    count_K = np.maximum(np.floor(ideal_K), 1).astype(np.int64)
    while count_K.sum() < num_subchannels:
        count_K[np.argmax(ideal_K / count_K)] += 1
    while count_K.sum() > num_subchannels:
        count_K[np.argmax(np.where(count_K > 1, count_K - ideal_K, -np.inf))] -= 1
    return count_K


def _plan(problem: Problem, cut: int, rank: int, learning: LearningModel) -> Plan:
    shares = plan_bandwidth(fedsllm_problem(problem, cut, rank, learning), problem.local_steps)
    if shares.status != "ok":
        return infeasible(shares.reason)
    main, fed = (
        _blocks(band, share_K, _power_w_K(problem, band))
        for band, share_K in zip((problem.main, problem.fed), shares.bandwidth_hz_2K, strict=True)
    )
    plan = make_plan(problem, cut, rank, main, fed)
    return plan if plan.delay_s < math.inf else infeasible("a client has no gain on the whole of its block of a band")


def _blocks(band: RadioBand, share_K: Array, power_w_K: Array) -> Allocation:
    count_K = whole_subchannels(share_K, band.num_subchannels)
    owner_M = np.repeat(np.arange(len(share_K)), count_K)
    return Allocation(owner_M, (power_w_K / count_K)[owner_M])


def _power_w_K(problem: Problem, band: RadioBand) -> Array:
    """Full power of every client, all lowered alike where the band's total would be exceeded."""
    cap_w_K = np.minimum(problem.tx_power_max_w_K, band.total_power_max_w)
    total_w = cap_w_K.sum()
    return cap_w_K * min(1.0, band.total_power_max_w / total_w) if total_w > 0 else cap_w_K
