"""Shares of the main server's speed, such that the last client's pipeline ends soonest.

Problem: min over shares that add up to 1 of max_k(other_k + work_k / share_k), with `work` the seconds that the whole
server would take for client k's batch and `other` what the client's pipeline takes besides.
Solution: all clients with work end together at T with share_k = work_k / (T - other_k), which add up to 1 at one T.
Their sum is convex and decreasing in T, so that Newton's steps from the left never overshoot.
Source: ours; the same argument as for min-max bandwidth in FDMA (arXiv 1911.02417).
"""

from __future__ import annotations

import numpy as np

from wavetune.units import Array


def optimal_shares(work_s_K: Array, other_s_K: Array) -> Array:
    """Shares of the server, [K], at least 0 and 1 together; equal where no client has work or one never ends.

    >>> optimal_shares(np.array([1.0, 1.0]), np.array([0.0, 1.5])).round(6).tolist()
    [0.333333, 0.666667]
    """
    works = work_s_K > 0
    if not np.any(works) or not np.all(np.isfinite(work_s_K + other_s_K)):
        return np.full(len(work_s_K), 1.0 / len(work_s_K))
    work_s, other_s = work_s_K[works], other_s_K[works]
    delay_s = float(np.max(work_s + other_s))
    for _ in range(100):
        share = work_s / (delay_s - other_s)
        step_s = (np.sum(share) - 1.0) / np.sum(share / (delay_s - other_s))
        if not delay_s + step_s > delay_s:
            break
        delay_s += float(step_s)
    share_K = np.zeros(len(work_s_K))
    share_K[works] = work_s / (delay_s - other_s)
    return share_K / np.sum(share_K)
