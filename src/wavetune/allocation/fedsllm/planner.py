"""FedsLLM: learning accuracy and the bandwidth of every client, for the least training delay.

Model: reaching the local accuracy eta takes v log2(1 / eta) local iterations a round and a / (1 - eta) rounds; with c_k
the seconds of an iteration and t_k those of an upload over a share b_k of a band (FDMA, full power),
    T = a / (1 - eta) max_k [v log2(1 / eta) c_k + t_k(main) + t_k(fed)],  sum_k b_k <= B in each band.
Solution: for a given eta a convex problem (`fdma`). Its multipliers give, for all eta and bandwidths, the lower bound
    a / (1 - eta) (v log2(1 / eta) alpha + beta),
which touches T at this eta. So T has a single minimum, where the bound's own minimiser is the eta that it came from.
Source: FedsLLM (arXiv 2407.09250) states accuracy and bandwidth as the decision and a lemma as the solution; model and
solution here are our reconstruction on Yang et al. (arXiv 1911.02417, 2007.03462).
Shape suffixes: K clients; 2 for the bands (main, fed).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from wavetune.allocation.fedsllm.bandwidth import excess, fdma_rate_bit_per_s, least_time_s, log_saved_per_second
from wavetune.allocation.fedsllm.fdma import least_delay_bandwidths, root
from wavetune.allocation.fedsllm.learning_accuracy import LearningModel
from wavetune.errors import ConfigError
from wavetune.units import Array

_LN2 = math.log(2.0)
_LOGIT = 690.0  # as far as 1 - eta and eta stay numbers


@dataclass(frozen=True, eq=False)
class FedsllmProblem:
    """What FedsLLM decides upon.

    Args:
        iteration_s_K: c_k, compute of one local iteration, the server's part included (s).
        bits_2K: activations to the main server and adapters to the federated one; all positive.
        carrier_to_noise_hz_2K: received power over noise density at full transmit power (Hz).
        bandwidth_hz_2: of each band (Hz).
        learning: rounds and iterations by accuracy.
        activations: whether they are sent once a round, as in the paper, or at every local iteration, as in training.
    """

    iteration_s_K: Array
    bits_2K: Array
    carrier_to_noise_hz_2K: Array
    bandwidth_hz_2: Array
    learning: LearningModel = field(default_factory=LearningModel)
    activations: Literal["once_a_round", "every_iteration"] = "once_a_round"

    def __post_init__(self) -> None:
        K = len(self.iteration_s_K)
        if K < 1 or self.bits_2K.shape != (2, K) or self.carrier_to_noise_hz_2K.shape != (2, K):
            raise ConfigError(f"bits_2K and carrier_to_noise_hz_2K must be of shape (2, {max(K, 1)})")
        finite = all(np.isfinite(x).all() for x in (self.iteration_s_K, self.bits_2K, self.carrier_to_noise_hz_2K))
        if not finite or np.any(self.iteration_s_K < 0) or np.any(self.bits_2K <= 0):
            raise ConfigError("iteration_s_K must be finite and at least 0, bits_2K finite and positive")


@dataclass(frozen=True, eq=False)
class FedsllmPlan:
    """The outcome: accuracy, bandwidths and the seconds of one round by phase.

    `status` is "infeasible" where some client cannot be heard or no plan meets the deadline: `reason` says why, the
    delay is infinite and the arrays are empty. `lower_bound_s` holds for every accuracy and every allocation.
    """

    status: Literal["ok", "infeasible"]
    reason: str
    accuracy: float
    local_iterations: float
    rounds: float
    delay_s: float
    lower_bound_s: float
    bandwidth_hz_2K: Array
    compute_s_K: Array
    upload_s_2K: Array


def plan_fedsllm(problem: FedsllmProblem, deadline_s: float = math.inf) -> FedsllmPlan:
    """Accuracy and bandwidths of the least delay; infeasible where that is beyond the deadline.

    >>> one = np.ones((2, 1))
    >>> problem = FedsllmProblem(np.ones(1), 1e6 * one, 3e6 * one, 1e6 * np.ones(2))
    >>> best, usual = plan_fedsllm(problem), plan_unoptimised(problem)
    >>> best.upload_s_2K.round(9).tolist(), best.delay_s < usual.delay_s, best.lower_bound_s > 0.999999 * best.delay_s
    ([[0.5], [0.5]], True, True)
    """
    if why := _unheard(problem):
        return _infeasible(why)

    def moved(logit: float) -> float:
        iterations = _iterations(problem.learning, logit)
        proved = _proved(problem, iterations, _best_bandwidths(problem, iterations))
        return _best_logit(problem.learning, *proved) - logit

    best = root(moved, 0.0, -1.0, (-_LOGIT, _LOGIT), 1e-7)
    plan = plan_bandwidth(problem, _iterations(problem.learning, best))
    if plan.delay_s > deadline_s:
        return _infeasible(f"training takes at least {plan.lower_bound_s:.6g} s, the deadline is {deadline_s:.6g} s")
    return plan


def plan_bandwidth(problem: FedsllmProblem, iterations: float) -> FedsllmPlan:
    """The best bandwidths for given local iterations of a round."""
    why = _unheard(problem)
    return _infeasible(why) if why else _plan(problem, iterations, _best_bandwidths(problem, iterations))


def plan_accuracy(problem: FedsllmProblem) -> FedsllmPlan:
    """Baseline "equal bandwidth": all clients get the same bandwidth, and the accuracy that is best then."""

    # The delay is the largest of functions that are unimodal in the accuracy, hence unimodal: a search by thirds.
    low, high = -30.0, 30.0
    while high - low > 1e-9:
        left, right = low + (high - low) / 3, high - (high - low) / 3
        if _equal_bandwidth(problem, left).delay_s < _equal_bandwidth(problem, right).delay_s:
            high = right
        else:
            low = left
    return _equal_bandwidth(problem, low)


def plan_unoptimised(problem: FedsllmProblem, accuracy: float = 0.5) -> FedsllmPlan:
    """Baseline "unoptimised": accuracy 0.5 and equal bandwidth. The paper's own reference is not public."""
    return _equal_bandwidth(problem, math.log(accuracy) - math.log1p(-accuracy))


def _equal_bandwidth(problem: FedsllmProblem, logit: float) -> FedsllmPlan:
    why, num_clients = _unheard(problem), len(problem.iteration_s_K)
    equal_2K = np.repeat(problem.bandwidth_hz_2[:, None] / num_clients, num_clients, axis=1)
    return _infeasible(why) if why else _plan(problem, _iterations(problem.learning, logit), equal_2K)


def _best_bandwidths(problem: FedsllmProblem, iterations: float) -> Array:
    ready_s_K, bits_2K = _round_load(problem, iterations)
    return least_delay_bandwidths(ready_s_K, bits_2K, problem.carrier_to_noise_hz_2K, problem.bandwidth_hz_2)


def _round_load(problem: FedsllmProblem, iterations: float) -> tuple[Array, Array]:
    """Compute (s) and payloads (bits) of a round."""
    times = iterations if problem.activations == "every_iteration" else 1.0
    return iterations * problem.iteration_s_K, problem.bits_2K * np.array([[times], [1.0]])


def _plan(problem: FedsllmProblem, iterations: float, bandwidth_hz_2K: Array) -> FedsllmPlan:
    learning = problem.learning
    compute_s_K, bits_2K = _round_load(problem, iterations)
    upload_s_2K = bits_2K / fdma_rate_bit_per_s(bandwidth_hz_2K, problem.carrier_to_noise_hz_2K)
    return FedsllmPlan(
        "ok",
        "",
        learning.accuracy(iterations),
        iterations,
        learning.rounds(iterations),
        learning.rounds(iterations) * float(np.max(compute_s_K + upload_s_2K.sum(axis=0))),
        _lower_bound_s(learning, *_proved(problem, iterations, bandwidth_hz_2K)),
        bandwidth_hz_2K,
        compute_s_K,
        upload_s_2K,
    )


def _proved(problem: FedsllmProblem, iterations: float, bandwidth_hz_2K: Array) -> tuple[float, float]:
    """Seconds per local iteration and per round, alpha and beta, below which no allocation and no accuracy comes.

    Weak duality: for weights w_k that add up to 1, the last client takes at least sum_k w_k (compute + uploads). The
    time of an upload is convex in its bandwidth, hence above its tangent, and the tangents add up to least where the
    steepest gets all the band.
    """
    q_2K = problem.carrier_to_noise_hz_2K
    bits_2K = _round_load(problem, iterations)[1]
    y_2K = np.log1p(q_2K / bandwidth_hz_2K)
    least_s_2K = least_time_s(bits_2K, q_2K)
    log_steep_2K = np.log(least_s_2K / q_2K) - log_saved_per_second(y_2K)
    weight_K = np.exp(np.min(log_steep_2K[0]) - log_steep_2K[0])
    weight_K = weight_K / weight_K.sum()
    steep_2K = weight_K * np.exp(log_steep_2K)
    main_s, fed_s = (
        np.sum(weight_K * least_s_2K * (1 + excess(y_2K)) + steep_2K * bandwidth_hz_2K, axis=1)
        - steep_2K.max(axis=1) * problem.bandwidth_hz_2
    ).tolist()
    compute_s = float(weight_K @ problem.iteration_s_K)
    if problem.activations == "every_iteration":
        return compute_s + main_s / iterations, fed_s
    return compute_s, main_s + fed_s


def _best_logit(learning: LearningModel, per_iteration_s: float, per_round_s: float) -> float:
    """Logit of the accuracy that minimises (v log2(1 / eta) per_iteration_s + per_round_s) / (1 - eta)."""
    ratio = max(per_round_s, 1e-250) / max(per_iteration_s * learning.iterations_scale / _LN2, 1e-250)

    def slope(logit: float) -> float:
        return math.log(ratio - _log_expit(logit)) + _log_expit(logit) - _log_expit(-logit)

    return root(slope, 0.0, 1.0, (-_LOGIT, _LOGIT), 1e-15)


def _lower_bound_s(learning: LearningModel, per_iteration_s: float, per_round_s: float) -> float:
    """Least (v log2(1 / eta) per_iteration_s + per_round_s) a / (1 - eta), less what rounding may have added."""
    if per_iteration_s < 0 or per_round_s < 0:
        return 0.0
    iterations = _iterations(learning, _best_logit(learning, per_iteration_s, per_round_s))
    round_s = iterations * per_iteration_s + per_round_s
    return learning.rounds(iterations) * round_s * (1 - 1e-11)


def _iterations(learning: LearningModel, logit: float) -> float:
    """Local iterations that reach an accuracy, which a logit names exactly near 0 and near 1."""
    return -learning.iterations_scale * _log_expit(logit) / _LN2


def _log_expit(logit: float) -> float:
    """log(1 / (1 + e^-x)), exact at both ends."""
    return min(logit, 0.0) - math.log1p(math.exp(-abs(logit)))


def _unheard(problem: FedsllmProblem) -> str:
    for name, band_hz, q_K in zip(("main", "fed"), problem.bandwidth_hz_2, problem.carrier_to_noise_hz_2K, strict=True):
        if not band_hz > 0:
            return f"{name} band: its bandwidth is {band_hz:g} Hz"
        if np.any(q_K <= 0):
            return f"{name} band: client {int(np.argmin(q_K))} has no gain or no power"
    return ""


def _infeasible(reason: str) -> FedsllmPlan:
    none_K, none_2K, nan = np.zeros(0), np.zeros((2, 0)), math.nan
    return FedsllmPlan("infeasible", reason, nan, nan, nan, math.inf, math.inf, none_2K, none_K, none_2K)
