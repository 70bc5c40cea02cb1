"""Compiled first guess of who owns what: every client its best subchannel, the rest to whoever would finish last."""

from __future__ import annotations

import numpy as np

from wavetune.allocation.compiled import kernel, part
from wavetune.allocation.problem import IntArray
from wavetune.units import Array


@kernel
def first_owners(
    snr_per_w_KM: Array,
    ready_K: Array,
    need_K: Array,
    cap_w_K: Array,
    total_w: float,
    order_K: IntArray,
    seed_K: IntArray,
) -> IntArray:
    """Owners by a greedy rule that, unlike the paper's, never lets a client drop out at its power cap.

    Clients choose in the order given, and the client that would finish last under an even power takes its best free
    subchannel, until none is free. `seed_K` names a first subchannel per client, used where free choice leaves a client
    without any.
    """
    K, M = snr_per_w_KM.shape
    owner_M, count_K, rate_K = np.full(M, -1, np.int64), np.zeros(K, np.int64), np.zeros(K)
    even_w = total_w / M
    for k in order_K:
        if need_K[k] > 0.0:
            i = best_free(snr_per_w_KM[k], owner_M)
            if i < 0:
                for i in range(M):
                    owner_M[i] = -1
                for j in range(K):
                    if need_K[j] > 0.0:
                        owner_M[seed_K[j]] = j
                break
            owner_M[i] = k
    for i in range(M):
        if owner_M[i] >= 0:
            count_K[owner_M[i]] += 1
    for k in range(K):
        rate_K[k] = even_rate(snr_per_w_KM[k], owner_M, k, count_K[k], cap_w_K[k], even_w)
    open_K = need_K > 0.0
    while True:
        last, last_s = -1, -np.inf
        for k in range(K):
            if open_K[k] and ready_K[k] + need_K[k] / rate_K[k] > last_s:
                last, last_s = k, ready_K[k] + need_K[k] / rate_K[k]
        if last < 0:
            return owner_M
        i = best_free(snr_per_w_KM[last], owner_M)
        if i < 0:
            open_K[last] = False
            continue
        owner_M[i] = last
        count_K[last] += 1
        rate_K[last] = even_rate(snr_per_w_KM[last], owner_M, last, count_K[last], cap_w_K[last], even_w)


@part
def best_free(snr_per_w_M: Array, owner_M: IntArray) -> int:
    """Strongest subchannel without an owner; -1 where none has any gain."""
    best, best_snr = -1, 0.0
    for i in range(len(owner_M)):
        if owner_M[i] < 0 and snr_per_w_M[i] > best_snr:
            best, best_snr = i, snr_per_w_M[i]
    return best


@part
def even_rate(snr_per_w_M: Array, owner_M: IntArray, k: int, count: int, cap_w: float, even_w: float) -> float:
    """Rate (bit/s/Hz) of client k if it spreads its power evenly, within its cap."""
    rate, power_w = 1e-300, min(even_w, cap_w / max(count, 1))
    for i in range(len(owner_M)):
        if owner_M[i] == k:
            rate += np.log1p(snr_per_w_M[i] * power_w)
    return rate / np.log(2.0)
