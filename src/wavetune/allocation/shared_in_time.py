"""Cuts that would suit bands shared in time, from which the search for owners and cuts starts.

With owners at hand a single client's deeper cut rarely pays: its adapters are the last to arrive, however many clients
follow. If instead client k has a share a_k of a band, whose rate at its power on an even part of it is R_k, then all
that is sent by T needs sum_k bits_k / (R_k (T - ready_k)) <= 1, and every client's bits count. A share of the server
s_k besides a_k costs least, for a price q of the server, with
    a_k (T - other_k) = A_k + sqrt(q A_k W_k),    s_k (T - other_k) = W_k + sqrt(A_k W_k / q),
A_k the client's seconds in a band of its own both ways, W_k those at a server of its own; at the best q both add up to
1 at the same T. Clients change their cuts in turns, as long as the round gets shorter.

Prices as those of `cut_packing` cost little here: at a weight w of a band and a price l of its seconds a client's
cheapest share costs 2 sqrt(w l seconds). From the best of them the packing of whole subchannels starts near its end.
Shape suffixes: K clients, C cuts, M subchannels, W weights of both bands and, where it is shared, the server, T for
the last seconds that count.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from wavetune.allocation.band import BandTables
from wavetune.allocation.decision import Evaluator, Options
from wavetune.allocation.delay import downlink_rate_bit_per_s_KM, transfer_s
from wavetune.allocation.problem import BoolArray, IntArray
from wavetune.allocation.water_filling import kernel, part
from wavetune.units import Array

_TURNS, _NEWTON, _HALVINGS = 6, 8, 14
_MOST_LOG_PRICE = 12.0  # of the server in units of the band
_PRICE_TURNS, _SOFT = 100, 0.01  # of prices' search; share of the round within which a client's cuts count alike


@part
def last_s(ready_K: Array, alone_K: Array) -> float:
    """When the last client is done in a band shared in time, of which each alone would need `alone_K` (s)."""
    end_s = float(np.max(ready_K + alone_K))
    for _ in range(_NEWTON):
        share, slope = 0.0, 0.0
        for k in range(len(ready_K)):
            left_s = end_s - ready_K[k]
            if alone_K[k] > 0.0 and left_s > 0.0:
                share += alone_K[k] / left_s
                slope += alone_K[k] / left_s**2
        if not share > 1.0 + 1e-6:
            break
        end_s += (share - 1.0) / slope
    return end_s


@part
def round_s(cost_6KC: Array, choice_K: IntArray, steps: int, shared: bool) -> float:
    """A round (s) in which the server is `shared` or works on all batches together."""
    K = len(choice_K)
    cost_6K = np.zeros((6, K))
    for n in range(6):
        for k in range(K):
            cost_6K[n, k] = cost_6KC[n, k, choice_K[k]]
    ready_K, back_K, work_K, up_K, down_K, fed_K = cost_6K
    fed_s = float(np.sum(fed_K))
    if not shared:
        return steps * (last_s(ready_K, up_K) + float(np.sum(work_K)) + last_s(back_K, down_K)) + fed_s
    other_K, alone_K, both_K = ready_K + back_K, up_K + down_K, np.sqrt((up_K + down_K) * work_K)
    low, high, step_s = -_MOST_LOG_PRICE, _MOST_LOG_PRICE, np.inf
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        root = float(np.exp(0.5 * middle))
        band_s, server_s = last_s(other_K, alone_K + root * both_K), last_s(other_K, work_K + both_K / root)
        step_s = min(step_s, max(band_s, server_s))
        low, high = (middle, high) if band_s < server_s else (low, middle)
    return steps * step_s + fed_s


@kernel
def suited(cost_6KC: Array, allowed_KC: BoolArray, steps: int, shared: bool, choice_K: IntArray) -> float:
    """Change clients' choices in turns, in place, while the round gets shorter; the round that this ends with (s)."""
    K, C = allowed_KC.shape
    best_s = round_s(cost_6KC, choice_K, steps, shared)
    for _ in range(_TURNS):
        before_s = best_s
        for k in range(K):
            best = choice_K[k]
            for c in range(C):
                if allowed_KC[k, c]:
                    choice_K[k] = c
                    tried_s = round_s(cost_6KC, choice_K, steps, shared)
                    if tried_s < best_s:
                        best_s, best = tried_s, c
            choice_K[k] = best
        if not best_s < before_s * (1.0 - 1e-6):
            break
    return best_s


def suited_choices(evaluator: Evaluator, one: Options) -> list[tuple[float, IntArray]]:
    """Some choices that suit an option set, and the total delay that they would have (s)."""
    problem, C = evaluator.problem, one.num_cuts
    seconds_7KC, allowed_KC = _seconds(evaluator, one)
    cost_6KC = np.concatenate((seconds_7KC[:5], np.sum(seconds_7KC[5:], axis=0, keepdims=True)))
    if not np.all(np.any(allowed_KC, axis=1)):
        return []
    found: dict[bytes, tuple[float, IntArray]] = {}
    for most in {0, C // 2, C - 1}:  # from the deepest cut of each up to a common one
        upto_KC = allowed_KC & (np.arange(C) <= np.maximum(most, np.argmax(allowed_KC, axis=1))[:, None])
        choice_K = C - 1 - np.argmax(upto_KC[:, ::-1], axis=1).astype(np.int64)
        round_s = suited(cost_6KC, allowed_KC, problem.local_steps, problem.share_server, choice_K)
        found[choice_K.tobytes()] = one.rounds * round_s, choice_K
    return list(found.values())


def suited_prices(evaluator: Evaluator, one: Options, goal_s: float) -> tuple[Array, Array]:
    """Prices of a round near the best that bands shared in time allow, for rounds of about `goal_s`.

    Returns the weights of the bands and, where it is shared, the server [W] (s), and the price of a second of each
    client [K, T].
    """
    from scipy import optimize  # pyright: ignore[reportMissingTypeStubs]

    problem = evaluator.problem
    shared, steps = problem.share_server, problem.local_steps
    (ready_KC, back_KC, work_KC, up_KC, down_KC, fed_up_KC, fed_down_KC), allowed_KC = _seconds(evaluator, one)
    K, times_T, least_s = len(allowed_KC), np.array([steps, steps, 1.0, 1.0][shared:]), 1e-12 * goal_s
    soft_s, W = _SOFT * goal_s / K, 2 + shared

    def prices(log_N: Array) -> tuple[Array, Array]:
        share_KT = log_N[W:].reshape(K, -1)
        share_KT = np.exp(share_KT - np.max(share_KT, axis=0))
        return goal_s * np.exp(np.clip(log_N[:W], -30.0, 30.0)), times_T * share_KT / np.sum(share_KT, axis=0)

    def missing(log_N: Array) -> tuple[float, Array]:
        """What prices prove too little of the goal, and its slope."""
        weight_W, late_KT = prices(log_N)
        late_KT1 = late_KT[:, :, None]
        late_up_K1, late_down_K1 = late_KT1[:, 0], late_KT1[:, 1 - shared]
        air_KC = late_up_K1 * up_KC + late_down_K1 * down_KC + least_s
        fed_air_KC = late_KT1[:, -2] * fed_up_KC + late_KT1[:, -1] * fed_down_KC + least_s
        served_KC = late_up_K1 * work_KC + least_s
        priced = (air_KC, fed_air_KC, served_KC)[:W]
        half_W = [np.sqrt(weight * x_KC) for weight, x_KC in zip(weight_W, priced, strict=True)]
        cost_KC = late_up_K1 * ready_KC + late_down_K1 * back_KC + 2 * sum(half_W) + (0 if shared else steps * work_KC)
        least_K1 = np.min(np.where(allowed_KC, cost_KC, np.inf), axis=1, keepdims=True)
        chosen_KC = np.where(allowed_KC, np.exp((least_K1 - cost_KC) / soft_s), 0.0)
        total_K1 = np.sum(chosen_KC, axis=1, keepdims=True)
        chosen_KC /= total_K1
        value_s = np.sum(least_K1 - soft_s * np.log(total_K1)) - np.sum(weight_W)
        up_s_KC, down_s_KC = ready_KC + half_W[0] * up_KC / air_KC, back_KC + half_W[0] * down_KC / air_KC
        fed_s_2KC = [half_W[1] * x_KC / fed_air_KC for x_KC in (fed_up_KC, fed_down_KC)]
        step_s = [up_s_KC + down_s_KC + half_W[2] * work_KC / served_KC] if shared else [up_s_KC, down_s_KC]
        slope_KT = late_KT * np.stack([np.sum(chosen_KC * x_KC, axis=1) for x_KC in (*step_s, *fed_s_2KC)], axis=1)
        slope_KT -= late_KT / times_T * np.sum(slope_KT, axis=0)
        slope_W = [np.sum(chosen_KC * x_KC) - weight for weight, x_KC in zip(weight_W, half_W, strict=True)]
        return -float(value_s) / goal_s, -np.concatenate((slope_W, slope_KT.ravel())) / goal_s

    start_N = np.concatenate((np.full(W, np.log(0.1)), np.zeros(K * len(times_T))))
    found = cast(Any, optimize).minimize(
        missing, start_N, jac=True, method="L-BFGS-B", options={"maxiter": _PRICE_TURNS}
    )  # fmt: skip
    return prices(found.x)


def _seconds(evaluator: Evaluator, one: Options) -> tuple[Array, BoolArray]:
    """Seconds of each cut if a client had each band and the server to itself, [7, K, C], and which cuts can be.

    Ready to send, after the way back, at the server, both ways of the main band, and both ways of the fed band.
    """
    problem = evaluator.problem
    (up_K1, down_K1), (fed_up_K1, fed_down_K1) = (
        _rates(tables, problem.price_downlink) for tables in (evaluator.main, evaluator.fed)
    )
    seconds_7KC = np.stack(
        (
            one.ready_s_KC,
            one.back_s_KC,
            one.work_s_KC,
            transfer_s(one.up_bits_KC, up_K1),
            transfer_s(one.down_bits_KC, down_K1),
            transfer_s(one.fed_bits_KC, fed_up_K1),
            transfer_s(one.fed_bits_KC * problem.costs.download_share, fed_down_K1),
        )
    )
    allowed_KC = one.allowed_KC & np.all(np.isfinite(seconds_7KC), axis=0)
    return np.where(allowed_KC, seconds_7KC, 0.0), allowed_KC


def _rates(tables: BandTables, priced: bool) -> tuple[Array, Array]:
    """Bit/s up and down on all of a band at the power on an even part of it, [K, 1]; the way back may take no time."""
    band, K = tables.band, len(tables.cap_w_K)
    power_w_K = K * np.minimum(tables.cap_w_K, band.total_power_max_w / K) / band.num_subchannels
    rate_KM = np.minimum(np.log2(1 + tables.snr_per_w_KM * power_w_K[:, None]), band.envelope.most)
    down_K1 = np.sum(downlink_rate_bit_per_s_KM(band), axis=1, keepdims=True) if priced else np.full((K, 1), np.inf)
    return band.effective_hz * np.sum(rate_KM, axis=1, keepdims=True), down_K1
