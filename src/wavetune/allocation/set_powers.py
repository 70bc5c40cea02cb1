"""Power of a client on a set of subchannels where watts and time have prices.

Shape suffixes: K clients, M subchannels, S sets, 3 for the cost of time, the least rate and the largest of use.
"""

from __future__ import annotations

import numpy as np

from wavetune.allocation.problem import BoolArray, IntArray
from wavetune.allocation.water_filling import BandProblem, kernel, least_power, most_rate
from wavetune.units import Array

_HALVINGS, _LN2 = 30, float(np.log(2.0))


@kernel
def best_powers(
    problem: BandProblem, client_S: IntArray, set_SM: BoolArray, slow_S3: Array, watt: float
) -> tuple[Array, Array]:
    """Rate (bit/s/Hz) and power (W) on sets for the least of `watt` a watt and what the time costs.

    That is slow_S3[:, 0] / rate; rates are at least slow_S3[:, 1] and no more than slow_S3[:, 2] is of use. Where watts
    cost nothing, the power is all that the client may spend.
    """
    S, M = set_SM.shape
    rate_S, power_S, owned = np.zeros(S), np.zeros(S), np.zeros(M, np.int64)
    for s in range(S):
        k, count = client_S[s], 0
        for i in np.argsort(-problem.log_KM[k]):
            if set_SM[s, i]:
                owned[count] = i
                count += 1
        cap_w = float(min(problem.cap_w_K[k], problem.total_w))
        if count == 0 or cap_w <= 0.0:
            continue
        log_M, inverse_M = problem.log_KM[k], problem.inverse_KM[k]
        full = most_rate(log_M, inverse_M, owned, count, cap_w, problem.limit)
        low, high = min(slow_S3[s, 1], full), max(min(slow_S3[s, 1], full), min(slow_S3[s, 2], full))
        for turn in range(_HALVINGS):
            rate = high if turn == 0 else 0.5 * (low + high)
            _, level_w = least_power(log_M, inverse_M, owned, count, rate, problem.limit)
            if watt * level_w * _LN2 * rate * rate <= slow_S3[s, 0]:
                if turn == 0:
                    break
                low = rate
            else:
                high = rate
        power_w, _ = least_power(log_M, inverse_M, owned, count, high, problem.limit)
        power_S[s] = min(power_w * (1.0 + 1e-9), cap_w)
        rate_S[s] = most_rate(log_M, inverse_M, owned, count, power_S[s], problem.limit)
    return rate_S, power_S
