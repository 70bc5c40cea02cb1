"""Owners and bound of a small band by integer programs: x_ki = 1 where client k owns subchannel i.

For a water level L, beta = 1 / (L ln 2), no power within the cap carries more on a set S than

    beta cap + sum over S of g_i(L),    g_i(L) = max_p (log2(1 + p h_i) - beta p),

and at the set's own water level just that: linear in x. In the same way all clients' sets take at least the total power

    sum over k of [ L_k ln 2 (rate_k - sum over S_k of g_i(L_k)) ].

The rate needed, need / (U - ready), is convex in the uplink's end U and no less than its tangents, and so is that of
the way back in its end D. With rows for some levels and tangents the least U + D is a bound. Rows that its solution
breaks are added until the owners it suggests are as good as it says.
Shape suffixes: K clients, M subchannels, J water levels, R rows, N pairs of a client and a subchannel, I steps.
"""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import numpy as np

from wavetune.allocation.gains import NO_GAIN_LOG2
from wavetune.allocation.problem import BoolArray, IntArray
from wavetune.allocation.water_filling import BandProblem, optimal_power
from wavetune.units import Array

_MOST_PAIRS, _ROUNDS, _NODES, _SURE = 200, 40, 3_000, 1e-6
_LOOK, _PAYS = 8, 0.1  # share of what is missing that so many programs have to gain
_SIZES = (1, 2, 3, 5, 8, 12)  # of sets of the strongest, at whose water levels there are rows at first
_GRID = 40
_MOST_S = 30.0  # of one program: nodes are what ends it, unless the solver lingers at one
_MOST_SERVED, _FEW = 6_000, 12  # pairs of which all are looked at for who is served, and of a client in larger bands
_FAINT_LOG2 = -500.0  # of a subchannel on which a client can only receive


class Back(NamedTuple):
    """The way back: rates (bit/s), bits, and work that follows (s)."""

    rate_KM: Array
    bits_K: Array
    after_s_K: Array


class Found(NamedTuple):
    """The best owners known, their delay, and what no owners are below (s)."""

    owner_M: IntArray
    delay_s: float
    bound_s: float


@contextmanager
def _without_remarks() -> Generator[None]:
    """Keep off the standard output what HiGHS prints for its own developers, whatever it is told."""
    if os.name != "posix" or sys.stdout is None:
        yield
        return
    sys.stdout.flush()
    kept, libc = os.dup(1), ctypes.CDLL(None)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 1)
        try:
            yield
        finally:
            libc.fflush(None)
            os.dup2(kept, 1)
            os.close(kept)
            said.seek(0)
            os.write(1, b"".join(line for line in said if not line.startswith(b"Highs")))  # by other threads


def serving_owners(power_w_KM: Array, received_KM: BoolArray, sends_K: BoolArray, gets_K: BoolArray) -> IntArray | None:
    """Owners that serve everybody with little power together, the least in small bands; None where there are none.

    A client has a subchannel for both ways, or one for each. All are nobody's where it takes too long to tell.

    Args:
        power_w_KM: what it takes to be heard (W), infinite where a client cannot be.
        received_KM: where a client can receive.
        sends_K: who sends.
        gets_K: who receives.
    """
    K, M = power_w_KM.shape
    sent_KM, received_KM = np.isfinite(power_w_KM) & sends_K[:, None], received_KM & gets_K[:, None]
    kinds = [sent_KM & received_KM, sent_KM, received_KM]
    if sum(map(np.count_nonzero, kinds)) <= _MOST_SERVED:
        return _served(power_w_KM, kinds, sends_K, gets_K)
    anyhow_KM = np.asarray((np.arange(M) - np.arange(K)[:, None] * _FEW) % M, np.float64)  # others receive elsewhere
    few = [_first(one, value) for one, value in zip(kinds, (power_w_KM, power_w_KM, anyhow_KM), strict=True)]
    owner_M = _served(power_w_KM, few, sends_K, gets_K)
    return -np.ones(M, np.int64) if owner_M is None else owner_M


def _first(allowed_KM: BoolArray, value_KM: Array) -> BoolArray:
    """The few allowed of the least value for each client."""
    order_KM = np.argsort(np.where(allowed_KM, value_KM, np.inf), axis=1, kind="stable")[:, :_FEW]
    first_KM = np.zeros(allowed_KM.shape, np.bool_)
    np.put_along_axis(first_KM, order_KM, True, axis=1)
    return np.logical_and(first_KM, allowed_KM)


def _served(power_w_KM: Array, kinds: list[BoolArray], sends_K: BoolArray, gets_K: BoolArray) -> IntArray | None:
    """Owners of pairs that serve both ways, for sending and for receiving."""
    from scipy import optimize, sparse  # pyright: ignore[reportMissingTypeStubs]

    milp, tables = cast(Any, optimize), cast(Any, sparse)
    client_N, channel_N = (np.concatenate(of) for of in zip(*map(np.nonzero, kinds), strict=True))
    kind_N = np.repeat(np.arange(3), [np.count_nonzero(one) for one in kinds])
    if len(kind_N) == 0:
        return None
    cost_N = np.where(kind_N < 2, power_w_KM[client_N, channel_N], 0.0)
    (K, M), N = power_w_KM.shape, np.arange(len(kind_N))
    ways = [
        tables.csr_array(((kind_N != other).astype(float), (client_N, N)), shape=(K, len(N)))[asks_K]
        for other, asks_K in ((2, sends_K), (1, gets_K))
    ]
    once = tables.csr_array((np.ones(len(N)), (channel_N, N)), shape=(M, len(N)))
    limits = [milp.LinearConstraint(once, -np.inf, 1.0), milp.LinearConstraint(tables.vstack(ways), 1.0, np.inf)]
    with _without_remarks():
        found: Any = milp.milp(
            cost_N / max(float(np.max(cost_N, initial=0.0)), 1e-300),
            integrality=np.ones(len(N)),
            bounds=milp.Bounds(0.0, 1.0),
            constraints=limits,
            options={"time_limit": _MOST_S},
        )
    if found.status == 2:
        return None
    owner_M = np.full(M, -1, np.int64)
    if found.x is not None:
        owner_M[channel_N[found.x > 0.5]] = client_N[found.x > 0.5]
    return owner_M


def is_tiny(problem: BandProblem) -> bool:
    """Whether integer programs over the clients that send take seconds at most."""
    return problem.log_KM.size <= _MOST_PAIRS


class OwnerProgram:
    """Rows of the program; caps of the problem are those that bounds allow."""

    def __init__(self, problem: BandProblem, back: Back, unit_s: float, least_up_s: float, least_down_s: float) -> None:
        self.problem, self.back, self.unit_s = problem, back, unit_s
        self.least_up_s, self.least_down_s = least_up_s, least_down_s
        self.cap_w_K = np.minimum(problem.cap_w_K, problem.total_w)
        self._heard_KM = problem.log_KM > _FAINT_LOG2
        self.open_KM = (problem.log_KM > NO_GAIN_LOG2) & (problem.need_K > 0)[:, None]
        self.open_KM |= (back.rate_KM > 0) & (back.bits_K > 0)[:, None]
        self.rows: list[Array] = []  # coefficients of the pairs, U and D, and the least value
        self.nodes = _NODES

    def close(
        self,
        found: Found,
        gap_s: float,
        beat_s: float,
        delay_of: Callable[[IntArray], float],
    ) -> Found:
        """Programs until the bound is within `gap_s` of the best owners or at `beat_s`, or no more follows."""
        least_up_s, least_down_s = self.least_up_s, self.least_down_s
        up_s = max(found.delay_s - least_down_s, least_up_s)
        for time_s in {least_up_s, up_s, 0.5 * (least_up_s + up_s)}:
            self._add_first_rows(time_s)
        for k in np.flatnonzero(self.problem.need_K > 0).tolist():
            self._add(k, self._heard_KM[k] * 1.0, 0.0, 0.0, 1.0)
        for time_s in np.linspace(least_down_s, found.delay_s - least_up_s, 4):
            self._add_down_rows(float(time_s), np.ones(len(self.cap_w_K), np.bool_))
        looked_s = found.bound_s
        for turn in range(_ROUNDS):
            goal_s = min(found.delay_s - 0.5 * gap_s, beat_s)
            if turn % _LOOK == _LOOK - 1:
                if found.bound_s - looked_s < _PAYS * (goal_s - found.bound_s):
                    break
                looked_s = found.bound_s
            bound_s, owner_M, up_s, down_s = self._solve(goal_s)
            found = found._replace(bound_s=max(found.bound_s, min(bound_s, goal_s) * (1 - _SURE)))
            if owner_M is None:
                break
            if (delay_s := delay_of(owner_M)) < found.delay_s:
                found = found._replace(owner_M=owner_M, delay_s=delay_s)
            if found.delay_s - found.bound_s <= gap_s or self.nodes <= 0:
                break
            if not self._separate(owner_M, up_s, down_s, goal_s):
                break
        return found

    def _solve(self, goal_s: float) -> tuple[float, IntArray | None, float, float]:
        """What no owners are below (s), owners that the rows allow by the goal, where there are any, and their U, D."""
        from scipy import optimize, sparse  # pyright: ignore[reportMissingTypeStubs]

        milp, tables = cast(Any, optimize), cast(Any, sparse)
        client_N, channel_N = np.nonzero(self.open_KM)
        N, M = len(client_N), self.open_KM.shape[1]
        once = tables.coo_array((np.ones(N), (channel_N, np.arange(N))), shape=(M, N + 2))
        rows_R = np.array(self.rows)
        ends = tables.csr_array(np.concatenate((np.zeros(N), [1.0, 1.0]))[None, :])
        with _without_remarks():
            program: Any = milp.milp(
                np.concatenate((np.zeros(N), [1.0, 1.0])),
                integrality=np.repeat([1, 0], [N, 2]),
                bounds=milp.Bounds(
                    np.concatenate((np.zeros(N), np.array([self.least_up_s, self.least_down_s]) / self.unit_s)),
                    np.concatenate((np.ones(N), [np.inf, np.inf])),
                ),
                constraints=milp.LinearConstraint(
                    tables.vstack((once, tables.csr_array(rows_R[:, :-1]), ends)),
                    np.concatenate((np.full(M, -np.inf), rows_R[:, -1], [-np.inf])),
                    np.concatenate((np.ones(M), np.full(len(rows_R), np.inf), [goal_s / self.unit_s])),
                ),
                options={"node_limit": self.nodes, "mip_rel_gap": 1e-5, "time_limit": _MOST_S},
            )
        self.nodes -= 50 + int(program.mip_node_count or 0)
        if program.status == 2:
            return goal_s, None, 0.0, 0.0
        bound_s = 0.0 if program.mip_dual_bound is None else float(program.mip_dual_bound) * self.unit_s
        if program.x is None:
            return bound_s, None, 0.0, 0.0
        owner_M = np.full(M, -1)
        chosen_N = program.x[:N] > 0.5
        owner_M[channel_N[chosen_N]] = client_N[chosen_N]
        return bound_s, owner_M, float(program.x[N]) * self.unit_s, float(program.x[N + 1]) * self.unit_s

    def _add(self, k: int | slice, worth: Array, up: float, down: float, least: float) -> None:
        most = least - (up * self.least_up_s + down * self.least_down_s) / self.unit_s
        row_KM = np.zeros(self.open_KM.shape)
        row_KM[k] = np.minimum(worth, max(most, 0.0))  # one that does alone does no more
        self.rows.append(np.concatenate((row_KM[self.open_KM], [up, down, least])))

    def _add_up_row(self, k: int, level_w: float, up_s: float) -> None:
        """What client k's rate on any set is at most, at a water level, by the tangent of what it needs at `up_s`."""
        left_s = up_s - self.problem.ready_K[k]
        if not left_s > 0:
            return
        rate = self.problem.need_K[k] / left_s
        worth_JM, free_J = self._worth(k, np.array([level_w]))
        self._add(k, worth_JM[0] / rate, self.unit_s / left_s, 0.0, 1 + up_s / left_s - free_J[0] / rate)

    def _add_down_rows(self, down_s: float, of_K: BoolArray) -> None:
        left_s_K = down_s - self.back.after_s_K
        for k in np.flatnonzero(of_K & (self.back.bits_K > 0) & (left_s_K > 0)).tolist():
            rate = self.back.bits_K[k] / left_s_K[k]
            self._add(k, self.back.rate_KM[k] / rate, 0.0, self.unit_s / left_s_K[k], 1 + down_s / left_s_K[k])

    def _worth(self, k: int, level_J: Array) -> tuple[Array, Array]:
        """What each subchannel adds at most to client k's rate at water levels (W), and what the cap adds."""
        log_M, inverse_M, limit = self.problem.log_KM[k], self.problem.inverse_KM[k], self.problem.limit
        beta_J1 = 1 / (level_J[:, None] * np.log(2))
        above_JM = np.log2(level_J)[:, None] + log_M
        worth_JM: Array = above_JM - beta_J1 * (level_J[:, None] - inverse_M)
        if limit < np.inf:
            worth_JM = np.where(above_JM > limit, limit - beta_J1 * np.expm1(limit * np.log(2)) * inverse_M, worth_JM)
        worth_JM = np.where(above_JM > 0, worth_JM, 0.0)
        if len(self.problem.steps.snr_I):
            snr_I, rate_I, _ = self.problem.steps
            step_JMI: Array = rate_I - beta_J1[:, :, None] * (inverse_M[:, None] * snr_I)
            worth_JM = np.where(worth_JM > 0, np.asarray(np.maximum.reduce(step_JMI, axis=-1)), 0.0)
        return worth_JM, beta_J1[:, 0] * self.cap_w_K[k]

    def _add_total_row(self, level_w_K: Array, up_s: float) -> None:
        """What all clients' sets take at least of the total power, at water levels, by the tangent at `up_s`."""
        problem = self.problem
        sends_K = (problem.need_K > 0) & (up_s > problem.ready_K)
        weight_K = np.where(sends_K, level_w_K * np.log(2) / problem.total_w, 0.0)
        left_s_K = np.where(sends_K, up_s - problem.ready_K, 1.0)
        needed_K = weight_K * problem.need_K / left_s_K
        worth_KM = np.concatenate([self._worth(k, level_w_K[k : k + 1])[0] for k in range(len(weight_K))])
        least = float(np.sum(needed_K * (1 + up_s / left_s_K))) - 1
        self._add(
            slice(None), weight_K[:, None] * worth_KM, float(np.sum(needed_K / left_s_K)) * self.unit_s, 0.0, least
        )

    def _add_first_rows(self, up_s: float) -> None:
        for k in np.flatnonzero(self.problem.need_K > 0).tolist():
            inverse_S = np.sort(self.problem.inverse_KM[k, self._heard_KM[k]])
            for size in _SIZES:
                if size <= len(inverse_S):
                    self._add_up_row(k, float(self.cap_w_K[k] + np.sum(inverse_S[:size])) / size, up_s)

    def _separate(self, owner_M: IntArray, up_s: float, down_s: float, late_s: float) -> bool:
        """Add rows by which these owners end when they do, where they were to end sooner; whether there are any.

        Whoever owns nothing ends at `late_s`.
        """
        before, clients = len(self.rows), np.arange(len(self.cap_w_K))
        for k in np.flatnonzero(self.problem.need_K > 0).tolist():
            own_M = (owner_M == k) & self._heard_KM[k]
            level_w, rate = self._rate(k, own_M) if np.any(own_M) else (float(self.cap_w_K[k]), 0.0)
            end_s = self.problem.ready_K[k] + self.problem.need_K[k] / rate if rate > 0 else late_s
            if end_s > up_s + _SURE * self.unit_s:
                self._add_up_row(k, level_w, end_s)
        rate_K = np.sum(np.where(owner_M == clients[:, None], self.back.rate_KM, 0.0), axis=1)
        for k in np.flatnonzero(self.back.bits_K > 0).tolist():
            end_s = self.back.after_s_K[k] + self.back.bits_K[k] / rate_K[k] if rate_K[k] > 0 else late_s
            if end_s > down_s + _SURE * self.unit_s:
                self._add_down_rows(end_s, clients == k)
        if len(self.rows) == before:
            delay_s, _, level_w_K = optimal_power(self.problem, owner_M)
            if up_s + _SURE * self.unit_s < delay_s < np.inf:
                self._add_total_row(level_w_K, delay_s)
        return len(self.rows) > before

    def _rate(self, k: int, own_M: BoolArray) -> tuple[float, float]:
        """Water level of a set at the client's cap (W), and its rate there (bit/s/Hz)."""
        inverse_S = self.problem.inverse_KM[k, own_M]
        low, high = float(np.log(np.min(inverse_S))), float(np.log(self.cap_w_K[k] + np.max(inverse_S) + 1e-300))
        if self.problem.limit < np.inf:
            high += 30.0  # full, whatever more power does
        level_J, rate_J = np.zeros(1), np.zeros(1)
        for _ in range(3):
            level_J = np.exp(np.linspace(low, high, _GRID))
            worth_JM, free_J = self._worth(k, level_J)
            rate_J = np.asarray(np.sum(worth_JM[:, own_M], axis=1) + free_J, np.float64)
            j = int(np.argmin(rate_J))
            low, high = (float(np.log(level_J[n])) for n in (max(j - 1, 0), min(j + 1, _GRID - 1)))
        j = int(np.argmin(rate_J))
        return float(level_J[j]), float(rate_J[j])
