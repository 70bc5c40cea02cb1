"""Bound and decisions where clients choose their own cuts, by set packing over both bands at once.

A round of I steps takes I (U + sum_k work_k + D) + F + G, with the last activations at U, the last backward pass D
after the server, and the adapters F up and G down. Client k chooses a cut c, a set S of the main band's subchannels
and a set T of the fed band's; it is not later than U and D with S, nor than F and G with T. Claim: for any weights
w, v >= 0 of the subchannels and the total powers, and any prices l >= 0 of each client's four times, no round is
shorter than

    min over U, D, F, G of [(I - sum l_kU) U + ... ] - sum w - sum v
        + sum_k min over c [I work_kc + min_S (w(S) + l_kU up_kc(S) + l_kD down_kc(S)) + min_T (...)],

as disjoint sets within the power pay at most all of w and v, and no client is later than the last. The inner minima are
those of `set_packing`; weights and prices are moved by linear programs over the sets found so far, each near the best
known ones. A program's solution mixes sets, so that a client's times are means; what is left open by that is closed by
parts: only sets count that are done by a part's last seconds, with its cuts, on subchannels that it leaves the client.
Shape suffixes: K clients, M subchannels, C cuts, S sets, J columns of a program, P pairs of client and cut, M1 for
the subchannels and the total power, 4 for U, D, F and G, 2 for first and last seconds, or for both ways of a band.
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
from wavetune.allocation.delay import downlink_rate_bit_per_s_KM, transfer_s
from wavetune.allocation.effort import Clock
from wavetune.allocation.problem import BoolArray, IntArray
from wavetune.allocation.relaxation import rate_needed
from wavetune.allocation.set_packing import cheapest_sets_in_time
from wavetune.allocation.water_filling import NO_GAIN_LOG2, NO_STEPS, BandProblem, kernel, least_power, most_rate
from wavetune.units import Array

_NODES = 300  # sets that are looked at for one cheapest set
_COLUMNS = 60  # sets of a cut in a program
_NOTHING = 1e-290  # bit/s/Hz of a client that only receives
_WATT = 1e-9  # least weight of the total power, in shares of the round
_EVEN = (0.01, 0.03, 0.1, 0.2)  # weights of a band's subchannels to start from, in shares of the round
_ROOT_PROGRAMS, _PROGRAMS = 30, 6  # for an option set, and for each of its parts
_RADIUS, _CHILD_RADIUS, _LEAST_RADIUS, _SHRINK = 0.5, 0.05, 1e-3, 0.3  # of prices' moves, in shares of even ones
_FAR = 0.2  # radius up to which it is foreseen what prices may still gain
_NARROW = 0.2  # share of what is missing to which prices are moved
_SPREAD, _MIXED = 0.3, 0.02  # of what is missing, and of a client's choice: below it another kind of parts is made
_MOST_PARTS = 4  # for every program that may be solved
_SAFE, _ROUNDING = 1 - 1e-9, 1e-7


class Asks(NamedTuple):
    """What each client's cut asks of a band: bit/Hz up from `ready_s_KC` on, and bits down before `after_s_KC`."""

    need_KC: Array
    ready_s_KC: Array
    down_bits_KC: Array
    after_s_KC: Array


@kernel
def _full_power(problem: BandProblem, client_S: IntArray, set_SM: BoolArray) -> tuple[Array, Array]:
    """Rate (bit/s/Hz) and power (W) of clients that send on sets with all the power they may."""
    S, M = set_SM.shape
    rate_S, power_S, owned = np.zeros(S), np.zeros(S), np.zeros(M, np.int64)
    for s in range(S):
        k, count = client_S[s], 0
        for i in np.argsort(-problem.log_KM[k]):
            if set_SM[s, i]:
                owned[count] = i
                count += 1
        log_M, inverse_M = problem.log_KM[k], problem.inverse_KM[k]
        cap_w = float(min(problem.cap_w_K[k], problem.total_w))
        if count > 0 and cap_w > 0.0:
            rate_S[s] = most_rate(log_M, inverse_M, owned, count, cap_w, problem.limit)
            power_w, _ = least_power(log_M, inverse_M, owned, count, rate_S[s], problem.limit)
            power_S[s] = min(power_w, cap_w)
    return rate_S, power_S


class SetsOfBand:
    """A band and the sets of subchannels found for its clients, with what they carry up and down at full power."""

    def __init__(self, tables: BandTables, priced: bool) -> None:
        band, K = tables.band, len(tables.cap_w_K)
        none_K = np.zeros(K)
        problem = with_cap_tolerance(tables.problem(none_K, none_K))._replace(steps=NO_STEPS)
        self.down_KM = downlink_rate_bit_per_s_KM(band) if priced else np.zeros(problem.log_KM.shape)
        self.unit = max(float(np.max(self.down_KM)), 1e-300)
        self.problem = with_receivers(problem, self.down_KM)._replace(back_KM=self.down_KM / self.unit)
        self.most_K, self.most_down_K = tables.lone_rate_K, np.sum(self.down_KM, axis=1) * (1 + 1e-9)
        self.known: set[tuple[int, bytes]] = set()
        # who has nothing to send or receive takes the empty set
        self.client_S, self.set_SM = np.arange(K), np.zeros((K, band.num_subchannels), np.bool_)
        self.up_S, self.down_S, self.power_S = np.zeros(K), np.zeros(K), np.zeros(K)

    @property
    def num_weights(self) -> int:
        """M and one more, for the total power."""
        return self.set_SM.shape[1] + 1

    def add(self, client_S: IntArray, set_SM: BoolArray) -> None:
        """Remember sets of clients."""
        new = [
            i for i, (k, set_M) in enumerate(zip(client_S.tolist(), set_SM, strict=True))
            if np.any(set_M) and not ((key := (k, set_M.tobytes())) in self.known or self.known.add(key))
        ]  # fmt: skip
        client_S, set_SM = client_S[new], np.ascontiguousarray(set_SM[new])
        up_S, power_S = _full_power(self.problem, client_S, set_SM)
        self.client_S, self.set_SM = np.concatenate((self.client_S, client_S)), np.concatenate((self.set_SM, set_SM))
        self.up_S, self.power_S = np.concatenate((self.up_S, up_S)), np.concatenate((self.power_S, power_S))
        self.down_S = np.concatenate((self.down_S, np.sum(self.down_KM[client_S] * set_SM, axis=1)))

    def cheapest(
        self, asks: Asks, last_2: Array, wanted_KC: BoolArray, hears_KM: BoolArray, weight_M1: Array, late_K2: Array,
        unit: float,
    ) -> Array:  # fmt: skip
        """Least of a set's weight and its times' prices, [K, C]; infinite where none is in time; sets are remembered.

        Args:
            asks: what cuts ask.
            last_2: when both ways have to be done (s).
            wanted_KC: the cuts that count.
            hears_KM: who may own what.
            weight_M1: of the subchannels and the total power.
            late_K2: price of a second of both ways.
            unit: the size of a large price.
        """
        rate_KC, down_KC = self.rates(asks, last_2)
        fits_KC = wanted_KC & (rate_KC <= self.most_K[:, None]) & (down_KC <= self.most_down_K[:, None])
        value_KC = np.where(fits_KC, late_K2[:, :1] * asks.ready_s_KC + late_K2[:, 1:] * asks.after_s_KC, np.inf)
        client_J, cut_J = np.nonzero(fits_KC & ((asks.need_KC > 0) | (asks.down_bits_KC > 0)))
        if len(client_J) == 0:
            return value_KC
        slow_J4 = np.stack(
            (
                late_K2[client_J, 0] * asks.need_KC[client_J, cut_J] / unit,
                late_K2[client_J, 1] * asks.down_bits_KC[client_J, cut_J] / self.unit / unit,
                self.most_K[client_J],
                self.most_down_K[client_J] / self.unit,
            ),
            axis=1,
        )
        asked = self.problem._replace(
            log_KM=np.where(hears_KM, self.problem.log_KM, NO_GAIN_LOG2),
            ready_K=np.zeros(len(client_J)),
            need_K=np.maximum(rate_KC[client_J, cut_J], _NOTHING),
            ask_K=np.ascontiguousarray(down_KC[client_J, cut_J] / self.unit),
        )
        value_J, set_JM = cheapest_sets_in_time(asked, client_J, slow_J4, weight_M1 / unit, _NODES, True)
        value_KC[client_J, cut_J] += value_J * unit
        self.add(client_J, set_JM)
        return value_KC

    def rates(self, asks: Asks, last_2: Array) -> tuple[Array, Array]:
        """What each cut has to carry up (bit/s/Hz) and down (bit/s) to be in time, [K, C]; infinite where too late."""
        return (
            rate_needed(asks.need_KC, float(last_2[0]) - asks.ready_s_KC),
            rate_needed(asks.down_bits_KC, float(last_2[1]) - asks.after_s_KC),
        )

    def columns(
        self, asks: Asks, last_2: Array, allowed_KC: BoolArray, hears_KM: BoolArray, weight_M1: Array, late_K2: Array,
        moves: tuple[float, Array],
    ) -> _Columns:  # fmt: skip
        """The known sets of each cut that are in time and may be its cheapest, but no more than a few.

        `moves` is how far the weights may move, and how far the prices of both ways may.
        """
        rate_KC, down_KC = self.rates(asks, last_2)
        does_SC = (self.up_S[:, None] >= rate_KC[self.client_S]) & allowed_KC[self.client_S]
        does_SC &= ~np.any(self.set_SM & ~hears_KM[self.client_S], axis=1)[:, None]
        does_SC &= self.down_S[:, None] >= down_KC[self.client_S] * (1 - 1e-12)
        set_J, cut_J = np.nonzero(does_SC)
        client_J = self.client_S[set_J]
        pair_J = client_J * rate_KC.shape[1] + cut_J
        up_s_J = transfer_s(asks.need_KC.ravel()[pair_J], self.up_S[set_J])
        down_s_J = transfer_s(asks.down_bits_KC.ravel()[pair_J], self.down_S[set_J])
        time_J2 = np.stack(
            (asks.ready_s_KC.ravel()[pair_J] + up_s_J, asks.after_s_KC.ravel()[pair_J] + down_s_J), axis=1
        )
        cost_J = (self.set_SM @ weight_M1[:-1])[set_J] + np.sum(late_K2[client_J] * time_J2, axis=1)
        move_J = moves[0] * np.sum(self.set_SM, axis=1)[set_J] + time_J2 @ moves[1]
        cost_J = np.where(np.all(np.isfinite(time_J2), axis=1), cost_J, np.inf)
        most_P = np.full(rate_KC.size, np.inf)
        np.minimum.at(most_P, pair_J, cost_J + move_J)
        cost_J = np.where(cost_J - move_J <= most_P[pair_J] * (1 + 1e-9), cost_J, np.inf)
        order = np.lexsort((cost_J, pair_J))
        set_J, pair_J, time_J2, cost_J = set_J[order], pair_J[order], time_J2[order], cost_J[order]
        place_J = np.arange(len(pair_J), dtype=np.int64) - np.asarray(np.searchsorted(pair_J, pair_J), dtype=np.int64)
        kept = (place_J < _COLUMNS) & np.isfinite(cost_J)
        return _Columns(set_J[kept], pair_J[kept], time_J2[kept])


class _Columns(NamedTuple):
    """Sets in a program: their number, client and cut as a flat number, and when both ways are done with them (s)."""

    set_J: IntArray
    pair_J: IntArray
    time_J2: Array


class Prices(NamedTuple):
    """Weights of both bands' subchannels and total powers, and prices of each client's four times, [K, 4]."""

    main_M1: Array
    fed_M1: Array
    late_K4: Array


class _Node(NamedTuple):
    """Part of an option set: a box of seconds, its cuts, and who may own what in both bands, [K, M].

    With what is proved of it, by which prices, and what its last program says.
    """

    bound_s: float
    number: int
    option_set: int
    edges_42: Array
    allowed_KC: BoolArray
    hears: tuple[BoolArray, BoolArray]
    prices: Prices
    radius: float = _RADIUS
    solved: _Solved | None = None


class Found(NamedTuple):
    """A choice of cuts with owners of both bands that a program's solution suggests."""

    option_set: int
    choice_K: IntArray
    main_owner_M: IntArray
    fed_owner_M: IntArray


class _Solved(NamedTuple):
    """A program's value (s), its prices, and its solution: seconds, cuts, and shares of both bands' subchannels.

    `mean_4` and `star_4` are when a client's sets are done in the mean and the last of them.
    """

    value_s: float
    prices: Prices
    mean_4: Array
    star_4: Array
    share_KC: Array
    shares: tuple[Array, Array]


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
        self.bands = tuple(SetsOfBand(tables, priced) for tables in bands)
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
        queue: list[_Node] = []
        prices = None
        for node in sorted(self._root(i, least) for i, least in enumerate(least_s)):
            if node.bound_s >= goal_of():
                continue
            node = node._replace(prices=prices or self._first_prices(node))
            node, prices = self._bounded(node, _ROOT_PROGRAMS), node.prices
            prices = node.prices
            if node.bound_s < np.inf:
                queue.append(node)
        heapq.heapify(queue)
        closed_s = [np.inf] * len(self.option_sets)
        number = len(self.option_sets)  # those of the option sets themselves come before
        last = number + _MOST_PARTS * programs
        while number < last and queue and self.programs > 0 and not self.clock.expired and queue[0].bound_s < goal_of():
            node = heapq.heappop(queue)
            for child in self._divided(node, number):
                if child.bound_s < goal_of():
                    heapq.heappush(queue, child)
            number += 2
        for node in queue:
            closed_s[node.option_set] = min(closed_s[node.option_set], node.bound_s)
        self.lower_s = [min(one_s, goal_of()) * _SAFE for one_s in closed_s]

    def _root(self, i: int, least: tuple[float, float, float, float]) -> _Node:
        """All of an option set, with what is known of its seconds."""
        one, first_4 = self.option_sets[i], np.array(least)
        least_work_s = float(np.sum(np.min(np.where(one.allowed_KC, one.work_s_KC, np.inf), axis=1)))
        room_s = max(0.0, self.goal_of() / one.rounds - least_work_s - float(self.times_4 @ first_4))
        edges_42 = np.stack((first_4, first_4 + room_s / self.times_4), axis=1)
        hears = [np.ones(band.problem.log_KM.shape, np.bool_) for band in self.bands]
        bound_s = one.rounds * (least_work_s + float(self.times_4 @ first_4))
        return _Node(bound_s, i, i, edges_42, one.allowed_KC, (hears[0], hears[1]), self._even_prices(0.0))

    def _even_prices(self, weight_s: float) -> Prices:
        """All subchannels of a band alike, together `weight_s`, and all clients' seconds too."""
        K = len(self.bands[0].most_K)
        main_M1, fed_M1 = (np.full(band.num_weights, weight_s / band.num_weights) for band in self.bands)
        return Prices(main_M1, fed_M1, np.tile(self.times_4 / K, (K, 1)))

    def _first_prices(self, node: _Node) -> Prices:
        """The best of a few even prices."""
        goal_s = self.goal_of() / self.option_sets[node.option_set].rounds
        tried = [self._even_prices(goal_s * share) for share in _EVEN]
        return max(tried, key=lambda prices: self._bound(node, prices, goal_s)[0])

    def _divided(self, node: _Node, number: int) -> list[_Node]:
        """Both parts of a node, bounded: by when the latest of the mixed sets are done, a client's cut, or an owner."""
        rounds, (first_4, last_4) = self.option_sets[node.option_set].rounds, node.edges_42.T
        solved = node.solved
        missing_s = (self.goal_of() - node.bound_s) / rounds
        i = int(np.argmax(self.times_4 * (last_4 - first_4)))
        at_s = 0.5 * float(first_4[i] + last_4[i])
        if solved is not None:
            spread_4 = self.times_4 * (np.minimum(solved.star_4, last_4) - np.maximum(solved.mean_4, first_4))
            mixed_KC = np.minimum(solved.share_KC, 1 - solved.share_KC)
            mixed_KC = np.where(np.sum(node.allowed_KC, axis=1)[:, None] > 1, mixed_KC, 0.0)
            halves = [np.minimum(share_KM, 1 - share_KM) for share_KM in solved.shares]
            if np.max(spread_4) > _SPREAD * missing_s:
                i = int(np.argmax(spread_4))
                at_s = 0.5 * float(min(solved.star_4[i], last_4[i]) + max(solved.mean_4[i], first_4[i]))
            elif np.max(mixed_KC) > _MIXED:
                k, c = np.unravel_index(np.argmax(mixed_KC), mixed_KC.shape)
                only_KC, without_KC = node.allowed_KC.copy(), node.allowed_KC.copy()
                only_KC[k], without_KC[k, c] = False, False
                only_KC[k, c] = True
                return self._children(node, number, [{"allowed_KC": only_KC}, {"allowed_KC": without_KC}])
            elif max(np.max(half_KM) for half_KM in halves) > _MIXED:
                j = int(np.argmax([np.max(half_KM) for half_KM in halves]))
                k, m = np.unravel_index(np.argmax(halves[j]), halves[j].shape)
                given, denied = list(node.hears), list(node.hears)
                given[j], denied[j] = node.hears[j].copy(), node.hears[j].copy()
                given[j][np.arange(len(given[j])) != k, m] = False
                denied[j][k, m] = False
                return self._children(node, number, [{"hears": tuple(given)}, {"hears": tuple(denied)}])
        below_42, above_42 = node.edges_42.copy(), node.edges_42.copy()
        below_42[i, 1] = above_42[i, 0] = at_s
        return self._children(node, number, [{"edges_42": below_42}, {"edges_42": above_42}])

    def _children(self, node: _Node, number: int, parts: list[dict[str, Any]]) -> list[_Node]:
        return [self._bounded(node._replace(number=number + n, **one), _PROGRAMS) for n, one in enumerate(parts)]

    def _bounded(self, node: _Node, most: int) -> _Node:
        """The node with its bound, the prices that prove it, and without cuts that no better plan has."""
        one = self.option_sets[node.option_set]
        trial, radius, solved = node.prices, node.radius, None
        best_s, center_s = node.bound_s / one.rounds, -np.inf
        for _ in range(most):
            goal_s = self.goal_of() / one.rounds
            bound_s, choice_KC = self._bound(node, trial, goal_s)
            least_K = np.min(choice_KC, axis=1)
            if bound_s >= goal_s:
                return node._replace(bound_s=np.inf)
            keeps_KC = choice_KC - least_K[:, None] <= (goal_s - bound_s) * (1 + 1e-9)
            node = node._replace(allowed_KC=node.allowed_KC & keeps_KC)
            if bound_s > center_s:
                wanted_s = 0.0 if solved is None else 0.5 * (solved.value_s - center_s)
                radius *= 1.0 if solved is None or bound_s - center_s < wanted_s else 2.0
                best_s, center_s = max(bound_s, best_s), bound_s
                node = node._replace(prices=trial, bound_s=one.rounds * best_s)
            else:
                radius *= _SHRINK
            if solved is not None and (solved.value_s - center_s) * max(1.0, _FAR / radius) <= _NARROW * (
                goal_s - best_s
            ):
                break
            if self.programs <= 0 or radius < _LEAST_RADIUS or self.clock.expired:
                break
            self.programs -= 1
            if (solved := self._solve(node, goal_s, radius)) is None:
                break
            trial = solved.prices
        if solved is not None:
            owners = [  # who has most of a subchannel
                np.where(np.max(share_KM, axis=0) > 0, np.argmax(share_KM, axis=0), -1) for share_KM in solved.shares
            ]
            self.tell(Found(node.option_set, np.argmax(solved.share_KC, axis=1), owners[0], owners[1]))
        return node._replace(solved=solved, radius=min(max(4 * radius, _CHILD_RADIUS), _RADIUS))

    def _bound(self, node: _Node, prices: Prices, goal_s: float) -> tuple[float, Array]:
        """No round of a node is shorter (s), infinite where there is none; and the least that cuts cost, [K, C] (s)."""
        one = self.option_sets[node.option_set]
        values = [
            band.cheapest(
                asks, node.edges_42[2 * j : 2 * j + 2, 1], node.allowed_KC, node.hears[j], prices[j],
                prices.late_K4[:, 2 * j : 2 * j + 2], goal_s,
            )
            for j, (band, asks) in enumerate(zip(self.bands, self.option_sets[node.option_set].asks, strict=True))
        ]  # fmt: skip
        choice_KC = np.where(node.allowed_KC, one.work_s_KC + values[0] + values[1], np.inf)
        slope_4 = self.times_4 - np.sum(prices.late_K4, axis=0)
        at_4 = np.where(slope_4 >= 0, node.edges_42[:, 0], node.edges_42[:, 1])
        paid_s = (1 + _ROUNDING) * float(np.sum(prices.main_M1) + np.sum(prices.fed_M1))
        return float(np.sum(np.min(choice_KC, axis=1))) + float(slope_4 @ at_4) - paid_s, choice_KC

    def _solve(self, node: _Node, most_s: float, radius: float) -> _Solved | None:
        """The best prices near a node's by the sets that are known, of which none costs more than `most_s`."""
        one, near = self.option_sets[node.option_set], node.prices
        K, C = node.allowed_KC.shape
        rest_s = most_s - float(self.times_4 @ node.edges_42[:, 0])
        moves_M1 = [np.full(band.num_weights, radius * rest_s / band.num_weights) for band in self.bands]
        late_4 = radius * self.times_4 / K
        parts = [
            band.columns(
                asks, node.edges_42[2 * j : 2 * j + 2, 1], node.allowed_KC, node.hears[j], near[j],
                near.late_K4[:, 2 * j : 2 * j + 2], (float(moves_M1[j][0]), late_4[2 * j : 2 * j + 2]),
            )
            for j, (band, asks) in enumerate(zip(self.bands, one.asks, strict=True))
        ]  # fmt: skip
        pair_P, place = np.flatnonzero(node.allowed_KC), np.zeros(K * C, np.int64)
        place[pair_P] = np.arange(len(pair_P))
        # variables: weights of both bands, clients' four prices; what each cut's cheapest sets of both bands cost, what
        # each client pays, and what U, D, F and G cost besides
        weights, late = [band.num_weights for band in self.bands], 4 * K
        program = _Program([*weights, late, len(pair_P), len(pair_P), K, 4])
        first = program.first
        for j, (band, part) in enumerate(zip(self.bands, parts, strict=True)):  # no cut's cheapest set costs more
            row_J = program.rows(np.zeros(len(part.set_J)))
            column_N, row_N = np.nonzero(band.set_SM[part.set_J])
            program.put(row_J, first[3 + j] + place[part.pair_J], 1.0)
            program.put(row_J[column_N], first[j] + row_N, -1.0)
            power_J = band.power_S[part.set_J] / band.problem.total_w
            program.put(row_J, np.full(len(row_J), first[j + 1] - 1), -power_J)
            for way in range(2):
                program.put(row_J, first[2] + part.pair_J // C * 4 + 2 * j + way, -part.time_J2[:, way])
        row_P = program.rows(one.work_s_KC.ravel()[pair_P])  # no client pays more than for a cut
        program.put(row_P, first[5] + pair_P // C, 1.0)
        for j in range(2):
            program.put(row_P, first[3 + j] + place[pair_P], -1.0)
        for way in range(4):  # of the seconds at both ends of the box, those that cost less
            row_2 = program.rows(self.times_4[way] * node.edges_42[way])
            program.put(row_2, np.full(2, first[6] + way), 1.0)
            for n, edge_s in enumerate(node.edges_42[way].tolist()):
                program.put(np.repeat(row_2[n : n + 1], K), first[2] + 4 * np.arange(K, dtype=np.int64) + way, edge_s)
        objective = np.concatenate((np.full(sum(weights), -1.0), np.zeros(late + 2 * len(pair_P)), np.ones(K + 4)))
        center = np.concatenate((near.main_M1, near.fed_M1, near.late_K4.ravel()))
        solved = program.solve(objective, center, np.concatenate((*moves_M1, np.tile(late_4, K))), most_s)
        if solved is None:
            return None
        value_s, found, share = solved
        found = [np.maximum(found[first[i] : first[i + 1]], 0.0) for i in range(3)]
        for weight_M1 in found[:2]:
            weight_M1[-1] = max(float(weight_M1[-1]), _WATT * most_s)
        ends_42 = share[-8:].reshape(4, 2)
        mean_4 = np.sum(ends_42 * node.edges_42, axis=1) / np.maximum(np.sum(ends_42, axis=1), 1e-300)
        star_4, shares, start = mean_4.copy(), list[Array](), 0
        for j, (band, part) in enumerate(zip(self.bands, parts, strict=True)):
            x_J = share[start : start + len(part.set_J)]
            start += len(part.set_J)
            used = np.flatnonzero(x_J > 1e-3)
            latest_2 = np.max(part.time_J2[used], axis=0, initial=0.0)
            star_4[2 * j : 2 * j + 2] = np.maximum(star_4[2 * j : 2 * j + 2], latest_2)
            share_KM = np.zeros(band.problem.log_KM.shape)
            np.add.at(share_KM, band.client_S[part.set_J[used]], x_J[used][:, None] * band.set_SM[part.set_J[used]])
            shares.append(share_KM)
        share_KC = np.full(K * C, -1.0)
        share_KC[pair_P] = share[start : start + len(pair_P)]
        prices = Prices(found[0], found[1], found[2].reshape(K, 4))
        return _Solved(value_s, prices, mean_4, star_4, share_KC.reshape(K, C), (shares[0], shares[1]))


class _Program:
    """A linear program over blocks of variables: a sum is maximised where rows of variables keep to limits."""

    def __init__(self, sizes: list[int]) -> None:
        self.first: list[int] = np.cumsum([0, *sizes]).tolist()
        self.limits: list[Array] = []
        self.entries: list[tuple[IntArray, IntArray, Array]] = []

    def rows(self, limit_J: Array) -> IntArray:
        """Numbers of new rows with these limits."""
        start = sum(map(len, self.limits))
        self.limits.append(limit_J)
        return np.arange(start, start + len(limit_J))

    def put(self, row_N: IntArray, column_N: IntArray, value: Array | float) -> None:
        """Coefficients of variables in rows."""
        self.entries.append((row_N, column_N, np.broadcast_to(value, len(row_N))))

    def solve(
        self, objective: Array, center: Array, move: Array, most: float
    ) -> tuple[float, Array, Array] | None:  # fmt: skip
        """Value, variables and the rows' shadow prices, or None without a solution.

        The variables of the first three blocks stay within `move` of `center` and are not negative; those of the next
        two are at most `most`. Solved is the dual, which has fewer rows.
        """
        from scipy.optimize import linprog  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]
        from scipy.sparse import coo_array  # pyright: ignore[reportMissingTypeStubs]

        near, large = np.arange(self.first[3]), np.arange(self.first[3], self.first[5])
        num_rows = sum(map(len, self.limits))
        for at, sign, limit in (
            (near, 1.0, center + move),
            (near, -1.0, -np.maximum(center - move, 0.0)),
            (large, 1.0, np.full(len(large), most)),
        ):
            self.put(self.rows(limit), at, sign)
        row_N = np.concatenate([row_N for row_N, _, _ in self.entries])
        column_N = np.concatenate([column_N for _, column_N, _ in self.entries])
        value_N = np.concatenate([value_N for _, _, value_N in self.entries])
        limits = np.concatenate(self.limits)
        matrix = coo_array((value_N, (column_N, row_N)), shape=(self.first[-1], len(limits))).tocsc()
        solved: Any = linprog(limits, A_eq=matrix, b_eq=objective, method="highs-ds")
        if solved.status != 0:
            return None
        variables, share = (np.asarray(x, dtype=np.float64) for x in (solved.eqlin.marginals, solved.x[:num_rows]))
        return float(solved.fun), variables, share
