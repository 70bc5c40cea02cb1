"""Powers on the rungs of a rate that grows in steps: as little as meets one delay for all, on given owners.

A subchannel at rung i of a client with ratio h per watt takes snr_i / h watts. Steps from rung to rung on the upper
hull of the ladder cost ever more per bit, so that a client that takes all its subchannels' steps in ascending order of
watts per bit has at each of them the most bits for its power (Hughes-Hartogs). The least delay that all meet within
their caps and the total is found by bisection; between two steps a client has more than it needs.
Shape suffixes: K clients, M subchannels, I rungs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wavetune.allocation.problem import IntArray, Problem, RadioBand
from wavetune.errors import ConfigError
from wavetune.units import Array
from wavetune.wireless.rate_models import Ladder

_HALVINGS = 60


def require_smooth(problem: Problem, what: str) -> None:
    """Raise ConfigError, naming `what` would be planned, where a rate grows in steps."""
    if problem.main.ladder is not None or problem.fed.ladder is not None:
        raise ConfigError(
            f"{what} can be planned with a smooth rate alone, and {problem.main.rate.kind} grows in steps; set "
            "world.scenario.rate.kind=shannon, with its gap and its largest rate"
        )


def hull(ladder: Ladder) -> Ladder:
    """The rungs on the upper hull of the ladder and the origin.

    >>> hull(Ladder(np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.2, 2.0]))).snr_I.tolist()
    [1.0, 3.0]
    """
    kept: list[tuple[float, float]] = [(0.0, 0.0)]
    for snr, rate in zip(ladder.snr_I.tolist(), ladder.rate_bit_per_s_I.tolist(), strict=True):
        while len(kept) > 1 and (rate - kept[-1][1]) * (kept[-1][0] - kept[-2][0]) >= (kept[-1][1] - kept[-2][1]) * (
            snr - kept[-1][0]
        ):
            kept.pop()
        if rate > kept[-1][1]:
            kept.append((snr, rate))
    snr_I, rate_I = np.array(kept[1:]).T
    return Ladder(snr_I, rate_I)


@dataclass(frozen=True, eq=False)
class _Climb:
    """A client's steps, cheapest first: which subchannel, and the power and rate after each."""

    subchannel_S: IntArray
    step_w_S: Array
    power_w_S: Array
    rate_S: Array

    def steps(self, rate: float) -> int:
        """How many steps a rate takes; more than there are where it cannot be had."""
        return int(np.searchsorted(self.rate_S, rate * (1 - 1e-12))) + 1


def _climb_of(snr_per_w_M: Array, owned: IntArray, ladder: Ladder, most_w: float) -> _Climb:
    """A client's steps within its power."""
    owned = owned[snr_per_w_M[owned] > 0]
    step_I, more_I = np.diff(ladder.snr_I, prepend=0.0), np.diff(ladder.rate_bit_per_s_I, prepend=0.0)
    step_w_OI = step_I / snr_per_w_M[owned][:, None]
    order = np.argsort((step_w_OI / more_I).ravel(), kind="stable")
    step_w_S, rate_S = step_w_OI.ravel()[order], np.cumsum(np.tile(more_I, len(owned))[order])
    power_w_S = np.cumsum(step_w_S)
    within = int(np.searchsorted(power_w_S, most_w, side="right"))
    subchannel_S = np.repeat(owned, len(step_I))[order]
    return _Climb(subchannel_S[:within], step_w_S[:within], power_w_S[:within], rate_S[:within])


def climb(
    band: RadioBand, ladder: Ladder, owner_M: IntArray, ready_s_K: Array, bits_K: Array, cap_w_K: Array
) -> tuple[IntArray, Array, float]:
    """Owners, powers (W) and the least max_k(ready_s[k] + bits[k] / rate[k]) of the clients that send (s).

    Args:
        band: gains, noise and the cap on the total.
        ladder: rungs of the rate.
        owner_M: client that owns each subchannel, -1 for none.
        ready_s_K: when each client starts to send (s).
        bits_K: what it sends; a client with 0 bits sends nothing.
        cap_w_K: each client's cap (W).

    Returns:
        The delay is infinite, and the powers are 0, where some client has no rung within the caps.
    """
    ladder, snr_per_w_KM = hull(ladder), band.snr_per_w_KM * band.envelope.gap
    senders, power_w_M = np.flatnonzero(bits_K > 0), np.zeros(len(owner_M))
    if not len(senders):
        return owner_M, power_w_M, -np.inf
    climbs = {
        k: _climb_of(
            snr_per_w_KM[k], np.flatnonzero(owner_M == k), ladder, min(float(cap_w_K[k]), band.total_power_max_w)
        )
        for k in senders.tolist()
    }
    if any(not len(one.rate_S) for one in climbs.values()):
        return owner_M, power_w_M, np.inf

    def steps_for(delay_s: float) -> dict[int, int]:
        return {k: one.steps(float(bits_K[k]) / (delay_s - float(ready_s_K[k]))) for k, one in climbs.items()}

    def within(steps: dict[int, int]) -> bool:
        return sum(float(climbs[k].power_w_S[n - 1]) for k, n in steps.items()) <= band.total_power_max_w

    if not within(dict.fromkeys(climbs, 1)):
        return owner_M, power_w_M, np.inf
    low_s = max(float(ready_s_K[k] + bits_K[k] / one.rate_S[-1]) for k, one in climbs.items()) * (1 + 1e-12)
    high_s = max(float(ready_s_K[k] + bits_K[k] / one.rate_S[0]) for k, one in climbs.items()) * (1 + 1e-12)
    if within(steps_for(low_s)):
        high_s = low_s
    for _ in range(_HALVINGS):
        if high_s - low_s <= 1e-12 * high_s:
            break
        middle_s = 0.5 * (low_s + high_s)
        low_s, high_s = (low_s, middle_s) if within(steps_for(middle_s)) else (middle_s, high_s)
    delay_s = -np.inf
    for k, n in steps_for(high_s).items():
        one = climbs[k]
        np.add.at(power_w_M, one.subchannel_S[:n], one.step_w_S[:n])
        delay_s = max(delay_s, float(ready_s_K[k] + bits_K[k] / one.rate_S[n - 1]))
    return owner_M, power_w_M, delay_s
