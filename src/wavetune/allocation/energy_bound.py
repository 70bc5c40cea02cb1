"""Lower bounds on energy: what no plan can go below, whoever owns which subchannel.

Relaxation: client k that owns n subchannels spends no less than with its n strongest, and all together own at most M. A
price on subchannels prices the sharing: for any price y >= 0,

    sum_k e_k >= sum_k min_n [e_k(n) + y n] - y M,

which counts whole subchannels but not that two clients may want the same one. Energy falls with time, so that over an
interval of times its value at the end and the delay at the start bound the cost from below; intervals are halved until
their bounds are close.
Shape suffixes: I local steps, K clients, M subchannels.
"""

from __future__ import annotations

import numpy as np

from wavetune.allocation.delay import load_of
from wavetune.allocation.energy_search import computing
from wavetune.allocation.energy_terms import rounds_of
from wavetune.allocation.feasibility import CAP_TOLERANCE, check_feasible
from wavetune.allocation.intervals import least_over_intervals
from wavetune.allocation.problem import Problem, RadioBand
from wavetune.units import Array


def least_energy_j(problem: Problem, delay_s: float) -> float:
    """No plan with one cut and rank for all that takes at most `delay_s` to the target spends less (J); inf if none is.

    Args:
        problem: bands, clients and costs.
        delay_s: limit on the delay to the target loss.
    """
    least_j = np.inf
    pairs = [(*computing(problem, cut, rank), cut, rank) for cut, rank in check_feasible(problem).pairs]
    for compute_s, compute_j_K, server_j, cut, rank in sorted(
        pairs, key=lambda p: (float(p[1].sum()) + p[2]) * rounds_of(problem, p[4])
    ):
        rounds, fixed_j = rounds_of(problem, rank), float(compute_j_K.sum()) + server_j
        if rounds * fixed_j < least_j and rounds * compute_s <= delay_s:
            radio_j = _least_radio_j(problem, cut, rank, delay_s / rounds, least_j / rounds - fixed_j)
            least_j = min(least_j, rounds * (fixed_j + radio_j))
    return least_j


def _least_radio_j(problem: Problem, cut: int, rank: int, round_s: float, enough_j: float) -> float:
    """Least energy of sending in a round of at most `round_s` at one cut and rank, up to what is enough (J)."""
    load, steps, cap_w_K = load_of(problem, cut, rank), problem.local_steps, problem.tx_power_max_w_K
    ready_s_K = load.client_forward_flop_IK[0] / problem.client_flop_per_s_K
    # What is left for the steps, until their activations have arrived, and for the adapters.
    left_s = round_s - computing(problem, cut, rank)[0] + steps * float(np.max(ready_s_K))
    if problem.share_server:  # A step ends with a client's backward pass; its share of the server is left out.
        ready_s_K = ready_s_K + load.client_backward_flop_IK[0] / problem.client_flop_per_s_K
        left_s = round_s
    main = BandEnergy(problem.main, ready_s_K, load.uplink_bits_IK[0], cap_w_K)
    fed = BandEnergy(problem.fed, np.zeros(problem.num_clients), load.fed_upload_bits_K, cap_w_K)

    def bound_j(soonest_s: float, latest_s: float) -> float:
        return steps * main.least_j(latest_s) + fed.least_j(left_s - steps * soonest_s)

    efficiency = problem.draw.amplifier_efficiency
    least_j = least_over_intervals(bound_j, float(np.max(ready_s_K)), left_s / steps, enough_j * efficiency)
    return least_j / efficiency


class BandEnergy:
    """What a band's clients spend at least, by the time at which all are done."""

    def __init__(self, band: RadioBand, ready_s_K: Array, bits_K: Array, cap_w_K: Array) -> None:
        sends = bits_K > 0
        snr_KM = -np.sort(-band.snr_per_w_KM[sends], axis=1)
        heard_KM = snr_KM > 0
        self.inverse_KM = np.where(heard_KM, 1.0 / np.where(heard_KM, snr_KM, 1.0), np.inf)
        self.log_sum_KM = np.cumsum(np.where(heard_KM, np.log2(np.where(heard_KM, snr_KM, 1.0)), 0.0), axis=1)
        self.inverse_sum_KM = np.cumsum(np.where(heard_KM, self.inverse_KM, 0.0), axis=1)
        self.heard_KM, self.count_M = heard_KM, np.arange(1.0, snr_KM.shape[1] + 1.0)
        self.ready_s_K, self.need_K = ready_s_K[sends], bits_K[sends] / band.effective_hz
        self.limit = band.envelope.most
        self.cap_w_K = np.minimum(cap_w_K[sends], band.total_power_max_w) * (1 + CAP_TOLERANCE)

    def least_j(self, done_s: float) -> float:
        """Least energy of all if each is done by a time (J); infinite where one cannot be."""
        if not len(self.need_K):
            return 0.0
        if not done_s > np.max(self.ready_s_K):
            return np.inf
        time_s_K1 = (done_s - self.ready_s_K)[:, None]
        rate_K1 = self.need_K[:, None] / time_s_K1
        log_level_KM = np.minimum((rate_K1 - self.log_sum_KM) / self.count_M, 600.0)
        level_KM = np.exp2(log_level_KM)
        active_KM = self.heard_KM & (level_KM >= self.inverse_KM)
        active_KM[:, 0] = self.heard_KM[:, 0]
        power_KM = np.where(active_KM, self.count_M * level_KM - self.inverse_sum_KM, np.inf)
        # The least slope of the rate's price holds whatever cancels in the difference above.
        least_KM = np.maximum(power_KM, rate_K1 * np.log(2.0) * self.inverse_KM[:, :1]) * (1 - 1e-9)
        carried_KM = rate_K1 <= self.count_M * self.limit * (1 + 1e-9)
        spent_KM = np.where(carried_KM & (least_KM <= self.cap_w_K[:, None]), least_KM * time_s_K1, np.inf)
        spent_KM = np.minimum.accumulate(spent_KM, axis=1)
        return _priced(spent_KM, self.count_M) if np.all(np.isfinite(spent_KM[:, -1])) else np.inf


def _priced(spent_KM: Array, count_M: Array) -> float:
    """Largest bound over a range of prices on a subchannel."""
    M = len(count_M)
    best = float(spent_KM[:, -1].sum())
    if len(spent_KM) > M:
        return np.inf
    top = float(np.max(np.where(np.isfinite(spent_KM), spent_KM, 0.0))) or 1e-300
    low, high = np.log(1e-9 * best / M) if best > 0 else -690.0, np.log(top * 4.0)
    for _ in range(20):  # The count wanted falls with the price; the bound is best where it meets M.
        price = np.exp(0.5 * (low + high))
        priced_KM = spent_KM + price * count_M
        wanted_K = np.argmin(priced_KM, axis=1)
        best = max(best, float(np.min(priced_KM, axis=1).sum()) - price * M)
        low, high = (0.5 * (low + high), high) if np.sum(wanted_K + 1) > M else (low, 0.5 * (low + high))
    return best
