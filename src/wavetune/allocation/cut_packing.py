"""Bound and decisions where clients of small bands choose their own cuts, by set packing over both bands at once.

A round of I steps takes I (U + sum_k work_k + D) + F + G, with the last activations at U, the last backward pass D
after the server, and the adapters F up and G down. In a box of these seconds, client k can choose a cut c, a set S of
the main band that has it done by the box's last U and D, and a set T of the fed band for F and G. Claim: for any
weights w, v >= 0 of the subchannels and the total powers no round in the box is shorter than its first seconds and
    sum_k min over c [I work_kc + min_S w(S) + min_T v(T)] - sum w - sum v
together, as disjoint sets within the power pay at most all of w and v. The inner minima are those of `set_packing`; the
weights are the duals of a linear program over the sets found so far. The box with the least bound is divided at the
seconds that the program's solution takes: from there on it is as good as its own value, and below it that solution is
not possible.
Shape suffixes: K clients, M subchannels, C cuts, S sets, 4 for U, D, F and G, 2 for first and last seconds.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from wavetune.allocation.band import BandTables, with_cap_tolerance
from wavetune.allocation.both_ways import with_receivers
from wavetune.allocation.decision import Options
from wavetune.allocation.delay import downlink_rate_bit_per_s_KM
from wavetune.allocation.effort import Clock
from wavetune.allocation.problem import BoolArray, IntArray
from wavetune.allocation.relaxation import rate_needed
from wavetune.allocation.set_packing import cheapest_sets
from wavetune.allocation.water_filling import NO_GAIN_LOG2, NO_STEPS, strongest_rates
from wavetune.units import Array

_NODES = 400  # sets that are looked at for one cheapest set
_COLUMNS = 12  # sets of a cut in a program
_WATT = 1e-9  # weight of the total power: it is hardly ever what is short
_ROOT_PROGRAMS, _PROGRAMS = 12, 6
_LATE = 0.7  # share of a box beyond which a solution's seconds do not divide it well
_NARROW = 0.3  # share of what is missing to which programs are solved
_CLOSE = 1e-4  # share of the delay below which a solution's seconds are not told from a box's first
_MOST_BOXES = 4  # for every program that may be solved
_SAFE, _ROUNDING = 1 - 1e-9, 1e-7


class Asks(NamedTuple):
    """What each client's cut asks of a band: bit/Hz up from `ready_s_KC` on, and bits down before `after_s_KC`."""

    need_KC: Array
    ready_s_KC: Array
    down_bits_KC: Array
    after_s_KC: Array


class SetsOfBand:
    """A band and the sets of subchannels found for its clients, with what they carry up and down at full power."""

    def __init__(self, tables: BandTables, num_cuts: int, priced: bool) -> None:
        band, self.num_cuts = tables.band, num_cuts
        none_K = np.zeros(len(tables.cap_w_K))
        problem = with_cap_tolerance(tables.problem(none_K, none_K))._replace(steps=NO_STEPS)
        self.down_KM = downlink_rate_bit_per_s_KM(band) if priced else np.zeros(problem.log_KM.shape)
        self.unit = max(float(np.max(self.down_KM)), 1e-300)
        self.problem = with_receivers(problem, self.down_KM)
        self.most_K, self.most_down_K = tables.lone_rate_K, np.sum(self.down_KM, axis=1) * (1 + 1e-9)
        self.known: set[tuple[int, bytes]] = set()
        M = band.num_subchannels
        K = len(tables.cap_w_K)  # who has nothing to send or receive takes the empty set
        self.client_S, self.set_SM = np.arange(K), np.zeros((K, M), np.bool_)
        self.up_S, self.down_S = np.zeros(K), np.zeros(K)

    def add(self, client_S: IntArray, set_SM: BoolArray) -> bool:
        """Remember sets of clients; whether any is new."""
        new = [
            i for i, (k, set_M) in enumerate(zip(client_S.tolist(), set_SM, strict=True))
            if np.any(set_M) and not ((key := (k, set_M.tobytes())) in self.known or self.known.add(key))
        ]  # fmt: skip
        if not new:
            return False
        client_S, set_SM = client_S[new], set_SM[new]
        log_SM = np.where(set_SM, self.problem.log_KM[client_S], NO_GAIN_LOG2)
        order_SM = np.argsort(-log_SM, axis=1)
        inverse_SM = np.where(log_SM > NO_GAIN_LOG2, self.problem.inverse_KM[client_S], 0.0)
        rows = self.problem._replace(
            log_KM=np.take_along_axis(log_SM, order_SM, axis=1),
            inverse_KM=np.take_along_axis(inverse_SM, order_SM, axis=1),
            cap_w_K=self.problem.cap_w_K[client_S],
        )
        last_S = np.sum(log_SM > NO_GAIN_LOG2, axis=1) - 1
        up_S = np.take_along_axis(strongest_rates(rows), np.maximum(last_S, 0)[:, None], axis=1)[:, 0]
        self.client_S, self.set_SM = np.concatenate((self.client_S, client_S)), np.concatenate((self.set_SM, set_SM))
        self.up_S = np.concatenate((self.up_S, np.where(last_S >= 0, up_S, 0.0)))
        self.down_S = np.concatenate((self.down_S, np.sum(self.down_KM[client_S] * set_SM, axis=1)))
        return True

    def cheapest(self, rate_KC: Array, down_KC: Array, wanted_KC: BoolArray, weight_M1: Array) -> Array:
        """Least weight of a set that carries the rates, [K, C]; infinite where none does; such sets are remembered."""
        fits_KC = (rate_KC <= self.most_K[:, None]) & (down_KC <= self.most_down_K[:, None])
        asks_KC = wanted_KC & fits_KC & ((rate_KC > 0) | (down_KC > 0))
        value_KC = np.where(fits_KC, 0.0, np.inf)
        client_J, cut_J = np.nonzero(asks_KC)
        if len(client_J) == 0:
            return value_KC
        base = self.problem
        rows = base._replace(
            log_KM=base.log_KM[client_J],
            inverse_KM=base.inverse_KM[client_J],
            cap_w_K=base.cap_w_K[client_J],
            ready_K=np.zeros(len(client_J)),
            need_K=np.maximum(rate_KC[asks_KC], 1e-12),
        )
        if np.any(self.down_KM > 0):
            rows = rows._replace(back_KM=self.down_KM[client_J] / self.unit, ask_K=down_KC[asks_KC] / self.unit)
        value_J, set_JM, *_ = cheapest_sets(rows, weight_M1, 1.0, _NODES, False)
        value_KC[client_J, cut_J] = value_J
        self.add(client_J, set_JM)
        return value_KC


class _Node(NamedTuple):
    """A box of seconds of an option set, what is proved of the rest of a round in it, and where it is divided."""

    bound_s: float
    number: int
    option_set: int
    edges_42: Array
    allowed_KC: BoolArray
    weights: tuple[Array, Array]
    star_4: Array


class Found(NamedTuple):
    """A choice of cuts with owners of both bands that a program's solution suggests."""

    option_set: int
    choice_K: IntArray
    main_owner_M: IntArray
    fed_owner_M: IntArray


class _Solved(NamedTuple):
    """A program's value (s), its weights of both bands, the seconds that its sets take, and what it suggests."""

    value_s: float
    weights: tuple[Array, Array]
    star_4: Array
    choice_K: IntArray
    owners: tuple[IntArray, IntArray]


@dataclass(frozen=True, eq=False)
class _OptionSet:
    """What its cuts ask of both bands, the server's work (s a round), and the rounds to the target."""

    asks: tuple[Asks, Asks]
    work_s_KC: Array
    rounds: float
    allowed_KC: BoolArray


class CutPacking:
    """The search over boxes: `run` raises `lower_s`, a bound for every option set, and hands on what it finds."""

    def __init__(
        self, bands: tuple[BandTables, BandTables], option_sets: list[Options], steps: int, download_share: float,
        priced: bool, clock: Clock,
    ) -> None:  # fmt: skip
        self.times_4, self.clock, self.priced = np.array([steps, steps, 1.0, 1.0]), clock, priced
        main, fed = bands
        self.bands = tuple(SetsOfBand(tables, option_sets[0].num_cuts, priced) for tables in bands)
        self.option_sets = [
            _OptionSet(
                (
                    Asks(o.up_bits_KC / main.band.effective_hz, o.ready_s_KC, o.down_bits_KC * priced, o.back_s_KC),
                    Asks(
                        o.fed_bits_KC / fed.band.effective_hz,
                        np.zeros(o.cut_KC.shape),
                        o.fed_bits_KC * (download_share * priced),
                        np.zeros(o.cut_KC.shape),
                    ),
                ),
                steps * o.work_s_KC,
                o.rounds,
                o.allowed_KC,
            )
            for o in option_sets
        ]
        self.lower_s = [0.0] * len(option_sets)
        self.programs = 0

    def run(
        self,
        known: list[tuple[IntArray, IntArray]],
        least_s: list[tuple[float, float, float, float]],
        goal_of: Callable[[], float],
        tell: Callable[[Found], None],
        programs: int,
    ) -> None:
        """Raise the bounds towards a goal (s of the total delay), which may fall, with so many linear programs.

        Args:
            known: owners of both bands to start from.
            least_s: what is proved of U, D, F and G in each option set.
            goal_of: total delay that is of interest.
            tell: is handed what programs suggest.
            programs: how many are solved at most.
        """
        self.goal_of, self.tell, self.programs = goal_of, tell, programs
        for owners in known:
            for band, owner_M in zip(self.bands, owners, strict=True):
                clients = np.arange(len(band.most_K))
                band.add(clients, owner_M[None] == clients[:, None])
        weights = tuple(np.full(band.set_SM.shape[1] + 1, 1e-3 * goal_of()) for band in self.bands)
        queue = [self._root(i, least, (weights[0], weights[1])) for i, least in enumerate(least_s)]
        queue = [node for node in queue if node.bound_s < np.inf]
        heapq.heapify(queue)
        closed_s = [np.inf] * len(self.option_sets)
        number = len(queue)
        last = number + _MOST_BOXES * programs
        while number < last and queue and self.programs > 0 and not self.clock.expired and queue[0].bound_s < goal_of():
            node = heapq.heappop(queue)
            for child in self._divided(node, number):
                if child.bound_s < goal_of():
                    heapq.heappush(queue, child)
            number += 2
        for node in queue:
            closed_s[node.option_set] = min(closed_s[node.option_set], node.bound_s)
        self.lower_s = [min(one_s, goal_of()) * _SAFE for one_s in closed_s]

    def _root(self, i: int, least: tuple[float, float, float, float], weights: tuple[Array, Array]) -> _Node:
        one = self.option_sets[i]
        first_4 = np.array(least)
        least_work_s = float(np.sum(np.min(np.where(one.allowed_KC, one.work_s_KC, np.inf), axis=1)))
        room_s = self.goal_of() / one.rounds - least_work_s - float(self.times_4 @ first_4)
        edges_42 = np.stack((first_4, first_4 + max(room_s, 0.0) / self.times_4), axis=1)
        bound_s = one.rounds * (least_work_s + float(self.times_4 @ first_4))
        node = _Node(bound_s, i, i, edges_42, one.allowed_KC, weights, first_4)
        return self._bounded(node, _ROOT_PROGRAMS) if room_s > 0 else node._replace(bound_s=np.inf)

    def _divided(self, node: _Node, number: int) -> tuple[_Node, _Node]:
        """Both parts of a box, bounded: in the later one the same sets do, but its first seconds count more."""
        first_4, last_4 = node.edges_42.T
        rounds = self.option_sets[node.option_set].rounds
        ahead_4 = self.times_4 * (np.minimum(node.star_4, last_4) - first_4)
        i = int(np.argmax(ahead_4))
        at_s = float(min(node.star_4[i], last_4[i]))
        late = at_s - first_4[i] > _LATE * (last_4[i] - first_4[i])
        if late or ahead_4[i] < _CLOSE * self.goal_of() / rounds:
            i = int(np.argmax(self.times_4 * (last_4 - first_4)))
            at_s = 0.5 * float(first_4[i] + last_4[i])
        below_42, above_42 = node.edges_42.copy(), node.edges_42.copy()
        below_42[i, 1] = above_42[i, 0] = at_s = max(at_s * (1 - 1e-9), float(first_4[i]))
        later_s = node.bound_s + rounds * float(self.times_4[i]) * (at_s - float(first_4[i]))
        above = self._tightened(node._replace(number=number + 1, edges_42=above_42, bound_s=later_s))
        if np.any(above.star_4 > above.edges_42[:, 1]):
            above = self._bounded(above, _PROGRAMS)
        return self._bounded(node._replace(number=number, edges_42=below_42), _PROGRAMS), above

    def _tightened(self, node: _Node) -> _Node:
        """The node without seconds that are too many for the goal, as what is proved comes on top of its first ones."""
        room_s = (self.goal_of() - node.bound_s) / self.option_sets[node.option_set].rounds
        first_4, last_4 = node.edges_42.T
        last_4 = np.minimum(last_4, first_4 + max(room_s, 0.0) / self.times_4 * (1 + 1e-9))
        return node._replace(edges_42=np.stack((first_4, last_4), axis=1))

    def _rates(self, node: _Node) -> list[tuple[Array, Array]]:
        """What each cut has to carry up (bit/s/Hz) and down (bit/s) in both bands, [K, C]; infinite where too late."""
        rates: list[tuple[Array, Array]] = []
        for j, asks in enumerate(self.option_sets[node.option_set].asks):
            last_up_s, last_down_s = node.edges_42[2 * j, 1], node.edges_42[2 * j + 1, 1]
            rates.append(
                (
                    rate_needed(asks.need_KC, last_up_s - asks.ready_s_KC),
                    rate_needed(asks.down_bits_KC, last_down_s - asks.after_s_KC),
                )
            )
        return rates

    def _bounded(self, node: _Node, most: int) -> _Node:
        """The node with its bound, the weights that prove it, and without cuts that no better plan has."""
        one = self.option_sets[node.option_set]
        first_s = float(self.times_4 @ node.edges_42[:, 0])
        trial, smoothing = node.weights, 0.5
        best, solved = self._tightened(node), None
        rest_s = best_s = node.bound_s / one.rounds - first_s
        for _ in range(most):
            goal_s = self.goal_of() / one.rounds
            rates = self._rates(best)
            values = [
                band.cheapest(*rate, best.allowed_KC, weight_M1)
                for band, rate, weight_M1 in zip(self.bands, rates, trial, strict=True)
            ]
            choice_KC = np.where(best.allowed_KC, one.work_s_KC + values[0] + values[1], np.inf)
            least_K = np.min(choice_KC, axis=1)
            rest_s = float(np.sum(least_K)) - (1 + _ROUNDING) * float(np.sum(trial[0]) + np.sum(trial[1]))
            if not np.all(np.isfinite(least_K)) or first_s + rest_s >= goal_s:
                return node._replace(bound_s=np.inf)
            keeps_KC = choice_KC - least_K[:, None] <= (goal_s - first_s - rest_s) * (1 + 1e-9)
            best = best._replace(allowed_KC=best.allowed_KC & keeps_KC)
            if rest_s > best_s or solved is None:
                best_s = max(rest_s, best_s)
                best = self._tightened(best._replace(weights=trial, bound_s=one.rounds * (first_s + best_s)))
            if solved is not None and solved.value_s - best_s <= _NARROW * (goal_s - first_s - best_s):
                break
            if self.programs <= 0:
                break
            self.programs -= 1
            if (solved := self._solve(best, self._rates(best), goal_s)) is None:
                break
            trial = (
                smoothing * best.weights[0] + (1 - smoothing) * solved.weights[0],
                smoothing * best.weights[1] + (1 - smoothing) * solved.weights[1],
            )
            smoothing = 0.3
        if solved is not None:
            self.tell(Found(node.option_set, solved.choice_K, *solved.owners))
        star_4 = node.edges_42[:, 0] if solved is None else np.maximum(solved.star_4, node.edges_42[:, 0])
        return best._replace(bound_s=one.rounds * (first_s + best_s), star_4=star_4)

    def _solve(self, node: _Node, rates: list[tuple[Array, Array]], penalty_s: float) -> _Solved | None:
        """The linear program over the sets that are known, where a client may go without any for a penalty."""
        from scipy.optimize import linprog  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]
        from scipy.sparse import coo_array  # pyright: ignore[reportMissingTypeStubs]

        one = self.option_sets[node.option_set]
        K, C = node.allowed_KC.shape
        parts = [
            self._columns(band, rate, node.allowed_KC, weight_M1)
            for band, rate, weight_M1 in zip(self.bands, rates, node.weights, strict=True)
        ]
        sizes = [band.set_SM.shape[1] for band in self.bands]
        numbers = [len(part[0]) for part in parts]
        total = sum(numbers) + K
        # rows: subchannels of both bands, then (equal) each client's choices, then each cut's sets of both bands
        rows: list[IntArray] = []
        columns: list[IntArray] = []
        for j, (set_J, _) in enumerate(parts):
            column_N, row_N = np.nonzero(self.bands[j].set_SM[set_J])
            rows.append(row_N + j * sizes[0])
            columns.append(column_N + j * numbers[0])
        upper = coo_array(
            (np.ones(sum(map(len, rows))), (np.concatenate(rows), np.concatenate(columns))), shape=(sum(sizes), total)
        ).tocsc()
        main_J = np.arange(numbers[0], dtype=np.int64)
        fed_J = numbers[0] + np.arange(numbers[1], dtype=np.int64)
        client_K = np.arange(K, dtype=np.int64)
        equal_rows = (self.bands[0].client_S[parts[0][0]], client_K, K + parts[0][1], K + parts[1][1])
        equal_columns = (main_J, sum(numbers) + client_K, main_J, fed_J)
        signs = (np.ones(numbers[0]), np.ones(K), np.ones(numbers[0]), -np.ones(numbers[1]))
        equal = coo_array(
            (np.concatenate(signs), (np.concatenate(equal_rows), np.concatenate(equal_columns))),
            shape=(K + K * C, total),
        ).tocsc()
        cost = np.concatenate((one.work_s_KC.ravel()[parts[0][1]], np.zeros(numbers[1]), np.full(K, penalty_s)))
        if not np.all(np.isfinite(cost)):
            return None
        solved: Any = linprog(
            cost, A_ub=upper, b_ub=np.ones(sum(sizes)), A_eq=equal, b_eq=np.repeat([1.0, 0.0], [K, K * C]),
            method="highs-ds",
        )  # fmt: skip
        if solved.status != 0:
            return None
        dual = np.maximum(-np.asarray(solved.ineqlin.marginals, dtype=np.float64), 0.0)
        weights = [np.append(x, _WATT * penalty_s) for x in (dual[: sizes[0]], dual[sizes[0] :])]
        x_main, x_fed = solved.x[: numbers[0]], solved.x[numbers[0] : sum(numbers)]
        star_4, owners = self._suggested(node, parts, (x_main, x_fed))
        share_KC = np.zeros(K * C)
        np.add.at(share_KC, parts[0][1], x_main)
        share_KC = np.where(node.allowed_KC, share_KC.reshape(K, C), -1.0)
        return _Solved(float(solved.fun), (weights[0], weights[1]), star_4, np.argmax(share_KC, axis=1), owners)

    def _columns(
        self, band: SetsOfBand, rate: tuple[Array, Array], allowed_KC: BoolArray, weight_M1: Array
    ) -> tuple[IntArray, IntArray]:
        """The few cheapest known sets that do for each cut, and the cuts, as flat numbers of the client's cut."""
        rate_KC, down_KC = rate
        does_SC = (band.up_S[:, None] >= rate_KC[band.client_S]) & allowed_KC[band.client_S]
        does_SC &= band.down_S[:, None] >= down_KC[band.client_S] * (1 - 1e-12)
        set_J, cut_J = np.nonzero(does_SC)
        pair_J = band.client_S[set_J] * rate_KC.shape[1] + cut_J
        order = np.lexsort(((band.set_SM @ weight_M1[:-1])[set_J], pair_J))
        set_J, pair_J = set_J[order], pair_J[order]
        place_J = np.arange(len(pair_J), dtype=np.int64) - np.asarray(np.searchsorted(pair_J, pair_J), dtype=np.int64)
        return set_J[place_J < _COLUMNS], pair_J[place_J < _COLUMNS]

    def _suggested(
        self, node: _Node, parts: list[tuple[IntArray, IntArray]], solution: tuple[Array, Array]
    ) -> tuple[Array, tuple[IntArray, IntArray]]:
        """The seconds that a program's sets take, and the owners who have most of each subchannel."""
        star_4 = node.edges_42[:, 0].copy()
        owners: list[IntArray] = []
        for j, (band, (set_J, pair_J), x_J) in enumerate(zip(self.bands, parts, solution, strict=True)):
            asks, used = self.option_sets[node.option_set].asks[j], np.flatnonzero(x_J > 1e-6)
            set_U, pair_U = set_J[used], pair_J[used]
            with np.errstate(divide="ignore", invalid="ignore"):
                up_s = asks.ready_s_KC.ravel()[pair_U] + asks.need_KC.ravel()[pair_U] / band.up_S[set_U]
                down_s = asks.after_s_KC.ravel()[pair_U]
                if self.priced:
                    down_s = down_s + asks.down_bits_KC.ravel()[pair_U] / band.down_S[set_U]
            star_4[2 * j] = max(star_4[2 * j], float(np.max(np.nan_to_num(up_s), initial=0.0)))
            star_4[2 * j + 1] = max(star_4[2 * j + 1], float(np.max(np.nan_to_num(down_s), initial=0.0)))
            share_KM = np.zeros(band.problem.log_KM.shape)
            np.add.at(share_KM, band.client_S[set_U], x_J[used][:, None] * band.set_SM[set_U])
            owners.append(np.where(np.max(share_KM, axis=0) > 0, np.argmax(share_KM, axis=0), -1))
        return star_4, (owners[0], owners[1])
