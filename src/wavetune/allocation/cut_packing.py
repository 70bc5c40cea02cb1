"""Bound and decisions where clients choose their own cuts, by set packing over both bands at once.

A round of I steps takes I (U + sum_k work_k + D) + F + G, with the last activations at U, the last backward pass D
after the server, and the adapters F up and G down. Client k chooses a cut c, a set S of the main band's subchannels
and a set T of the fed band's; it is not later than U and D with S, nor than F and G with T. Claim: for any weights
w, v >= 0 of the subchannels and the total powers, and any prices l >= 0 of each client's four times, no round is
shorter than

    min over U, D, F, G of [(I - sum l_kU) U + ... ] - sum w - sum v
        + sum_k min over c [I work_kc + min_S (w(S) + l_kU up_kc(S) + l_kD down_kc(S)) + min_T (...)],

as disjoint sets within the power pay at most all of w and v, and no client is later than the last. Where each client
has a share of the server and is served as soon as it has sent, one last second P of both ways and the service between
them takes the place of U and D, l_kU = l_kD = l_kP, and with a weight u >= 0 of the server I work_kc becomes
min over shares s of (l_kP work_kc / s + u s), less u in all.

The inner minima are those of `set_packing`; weights and prices are moved by linear programs over the sets found so far
with the powers that were best for them, each near the best known ones. A program's solution mixes sets, so that a
client's times are means; what is left open by that is closed by parts: only sets count that are done by a part's last
seconds, with its cuts, on subchannels that it leaves the client, and to be done sooner than a part's first seconds is
worth nothing. Where the server is not shared and prices leave few choices of cuts open, these are closed one by one, as
bands that share nothing.
Shape suffixes: K clients, M subchannels, C cuts, S sets, J columns of a program, P pairs of client and cut, M1 for
the subchannels and the total power, T for U, D, F and G or P, F and G, 2 for first and last seconds, for both ways of
a band, or for the least and the largest share.
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
from wavetune.allocation.gains import NO_GAIN_LOG2
from wavetune.allocation.problem import BoolArray, IntArray
from wavetune.allocation.relaxation import rate_needed
from wavetune.allocation.set_packing import cheapest_sets_in_time
from wavetune.allocation.set_powers import best_powers
from wavetune.allocation.water_filling import NO_RANKING, NO_STEPS, BandProblem
from wavetune.units import Array

_MOST_SETS = 300  # that are looked at for one cheapest set
_COLUMNS = 60  # sets of a cut in a program
_LEVELS = 32  # powers of a set that are told apart, in each octave
_NOTHING = 1e-290  # bit/s/Hz of a client that only receives
_WATT = 1e-9  # least weight of the total power, in shares of the round
_WEIGHTS = (0.01, 0.03, 0.1, 0.2)  # of a band's subchannels, in shares of the round, at which sets are looked for first
_EVEN = 0.2  # share of alike prices of all clients' seconds in those to start from
_ROOT_PROGRAMS, _PROGRAMS = 30, 6  # for an option set, and for each of its parts
_RADIUS, _CHILD_RADIUS, _LEAST_RADIUS, _SHRINK = 0.5, 0.05, 1e-3, 0.3  # of prices' moves, in shares of even ones
_GROWS = 0.2  # share of a foreseen gain from which on the radius is doubled
_FAR = 1.0  # radius up to which it is foreseen what prices may still gain
_NARROW = 0.2  # share of what is missing to which prices are moved
_SPREAD, _MIXED = 0.3, 0.02  # of what is missing, and of a client's choice: below it another kind of parts is made
_ASIDE = 1e-3  # of a band's prices, where seconds alone prove more of it
_PAYS, _STALE, _LOOK = 0.1, 2, 40  # share of what is missing that programs have to gain: one of so many, or all of them
_CHOICES, _WIDE = 128, 4e-3  # of cuts that are closed one by one, and the gap from which on that is done thoroughly
_MOST_PARTS = 4  # for every program that may be solved
_SHARES = 1.25 ** np.arange(-4.0, 5.0)  # of the server around the cheapest
_SAFE, _ROUNDING = 1 - 1e-9, 1e-7


class Asks(NamedTuple):
    """What each client's cut asks of a band: bit/Hz up from `ready_s_KC` on, and bits down before `after_s_KC`.

    `rest_s_KC2` is what else takes time at least before the last seconds of both ways.
    """

    need_KC: Array
    ready_s_KC: Array
    down_bits_KC: Array
    after_s_KC: Array
    rest_s_KC2: Array = np.zeros(2)


class Asked(NamedTuple):
    """What cuts cost before any set, [K, C] (s), and what is asked of sets for those that send or receive.

    `slow_J4` and `problem` are as of `cheapest_sets_in_time`.
    """

    start_KC: Array
    client_J: IntArray
    cut_J: IntArray
    slow_J4: Array
    problem: BandProblem


class SetsOfBand:
    """A band and the sets of subchannels found for its clients, with their powers and what they carry up and down."""

    def __init__(self, tables: BandTables, priced: bool) -> None:
        band, K = tables.band, len(tables.cap_w_K)
        none_K = np.zeros(K)
        problem = with_cap_tolerance(tables.problem(none_K, none_K))._replace(steps=NO_STEPS, ranking=NO_RANKING)
        self.down_KM = downlink_rate_bit_per_s_KM(band) if priced else np.zeros(problem.log_KM.shape)
        self.unit = max(float(np.max(self.down_KM)), 1e-300)
        self.problem = with_receivers(problem, self.down_KM)._replace(back_KM=self.down_KM / self.unit)
        self.most_K, self.most_down_K = tables.lone_rate_K, np.sum(self.down_KM, axis=1) * (1 + 1e-9)
        self.alone_K = self.most_K  # what is taken for that where it says how soon clients can be done
        self.known: set[tuple[int, bytes, int]] = set()
        # who has nothing to send or receive takes the empty set
        self.client_S, self.set_SM = np.arange(K), np.zeros((K, band.num_subchannels), np.bool_)
        self.up_S, self.down_S, self.power_share_S = np.zeros(K), np.zeros(K), np.zeros(K)

    @property
    def num_weights(self) -> int:
        """M and one more, for the total power."""
        return self.set_SM.shape[1] + 1

    def add(self, client_S: IntArray, set_SM: BoolArray, slow_S3: Array | None = None, watt: float = 0.0) -> None:
        """Remember sets of clients, at full power or at what is best as of `best_powers`."""
        if slow_S3 is None or watt <= 0.0 or np.sum(self.problem.cap_w_K) <= self.problem.total_w:
            slow_S3, watt = np.tile([0.0, 0.0, np.inf], (len(client_S), 1)), 0.0
        up_S, power_S = best_powers(self.problem, client_S, set_SM, slow_S3, watt)
        power_share_S = power_S / self.problem.total_w
        level_S = np.rint(_LEVELS * np.log2(np.maximum(power_share_S, 1e-6))).astype(np.int64)
        new = [
            i for i, (k, set_M, level) in enumerate(zip(client_S.tolist(), set_SM, level_S.tolist(), strict=True))
            if np.any(set_M) and not ((key := (k, set_M.tobytes(), level)) in self.known or self.known.add(key))
        ]  # fmt: skip
        client_S, set_SM = client_S[new], np.ascontiguousarray(set_SM[new])
        self.client_S, self.set_SM = np.concatenate((self.client_S, client_S)), np.concatenate((self.set_SM, set_SM))
        self.up_S = np.concatenate((self.up_S, up_S[new]))
        self.power_share_S = np.concatenate((self.power_share_S, power_share_S[new]))
        self.down_S = np.concatenate((self.down_S, np.sum(self.down_KM[client_S] * set_SM, axis=1)))

    def cheapest(
        self, asks: Asks, edges_22: Array, wanted_KC: BoolArray, hears_KM: BoolArray, weight_M1: Array, late_K2: Array,
        unit: float,
    ) -> Array:  # fmt: skip
        """Least of a set's weight and its times' prices, [K, C]; infinite where none is in time; sets are remembered.

        Args:
            asks: what cuts ask.
            edges_22: from when on it counts how late both ways are done, and when they have to be (s).
            wanted_KC: the cuts that count.
            hears_KM: who may own what.
            weight_M1: of the subchannels and the total power.
            late_K2: price of a second of both ways.
            unit: the size of a large price.
        """
        rate_KC, down_KC = self.rates(asks, edges_22[:, 1])
        fits_KC = wanted_KC & (rate_KC <= self.most_K[:, None]) & (down_KC <= self.most_down_K[:, None])
        start_KC, client_J, cut_J, slow_J4, asked = self.asked(asks, edges_22, fits_KC, hears_KM, late_K2, unit)
        value_KC = np.where(fits_KC, start_KC, np.inf)
        if len(client_J) == 0:
            return value_KC
        value_J, set_JM = cheapest_sets_in_time(asked, client_J, slow_J4, weight_M1 / unit, _MOST_SETS)
        value_KC[client_J, cut_J] += value_J * unit
        slow_J3 = np.stack((slow_J4[:, 0], rate_KC[client_J, cut_J], slow_J4[:, 2]), axis=1)
        self.add(client_J, set_JM, slow_J3, float(weight_M1[-1]) / unit / self.problem.total_w)
        return value_KC

    def asked(
        self, asks: Asks, edges_22: Array, possible_KC: BoolArray, hears_KM: BoolArray, late_K2: Array, unit: float
    ) -> Asked:
        """What sets are asked for the possible cuts that send or receive; arguments as of `cheapest`."""
        (rate_KC, down_KC), (soon_KC, soon_down_KC) = (self.rates(asks, edges_22[:, i]) for i in (1, 0))
        ready_s_KC = np.maximum(asks.ready_s_KC, edges_22[0, 0] * (asks.need_KC <= 0))
        after_s_KC = np.maximum(asks.after_s_KC, edges_22[1, 0] * (asks.down_bits_KC <= 0))
        client_J, cut_J = np.nonzero(possible_KC & ((asks.need_KC > 0) | (asks.down_bits_KC > 0)))
        at = client_J, cut_J
        soon_J = np.minimum(self.alone_K[client_J], soon_KC[at])
        soon_down_J = np.minimum(self.most_down_K[client_J], soon_down_KC[at])
        slow_J4 = np.stack(
            (
                late_K2[client_J, 0] * asks.need_KC[at] / unit,
                late_K2[client_J, 1] * asks.down_bits_KC[at] / self.unit / unit,
                np.maximum(soon_J, rate_KC[at]),
                np.maximum(soon_down_J, down_KC[at]) / self.unit,
            ),
            axis=1,
        )
        problem = self.problem._replace(
            log_KM=np.where(hears_KM, self.problem.log_KM, NO_GAIN_LOG2),
            ready_K=np.zeros(len(client_J)),
            need_K=np.maximum(rate_KC[at], _NOTHING),
            ask_K=np.ascontiguousarray(down_KC[at] / self.unit),
        )
        return Asked(late_K2[:, :1] * ready_s_KC + late_K2[:, 1:] * after_s_KC, client_J, cut_J, slow_J4, problem)

    def least_s(self, asks: Asks) -> Array:
        """Both ways of each cut take no less if the client has the whole band, [K, C, 2] (s)."""
        up_s_KC = transfer_s(asks.need_KC, self.alone_K[:, None])
        down_s_KC = transfer_s(asks.down_bits_KC, self.most_down_K[:, None])
        return np.stack((asks.ready_s_KC + up_s_KC, asks.after_s_KC + down_s_KC), axis=2)

    def rates(self, asks: Asks, last_2: Array) -> tuple[Array, Array]:
        """What each cut has to carry up (bit/s/Hz) and down (bit/s) to be in time, [K, C]; infinite where too late."""
        return (
            rate_needed(asks.need_KC, float(last_2[0]) - asks.ready_s_KC - asks.rest_s_KC2[..., 0]),
            rate_needed(asks.down_bits_KC, float(last_2[1]) - asks.after_s_KC - asks.rest_s_KC2[..., 1]),
        )

    def columns(
        self, asks: Asks, edges_22: Array, allowed_KC: BoolArray, hears_KM: BoolArray, weight_M1: Array, late_K2: Array,
        moves: tuple[float, Array],
    ) -> _Columns:  # fmt: skip
        """The known sets of each cut that are in time and may be its cheapest, but no more than a few.

        `moves` is how far the weights may move, and how far the prices of both ways may.
        """
        rate_KC, down_KC = self.rates(asks, edges_22[:, 1])
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
        time_J2 = np.maximum(time_J2, edges_22[:, 0])
        cost_J = (self.set_SM @ weight_M1[:-1] + weight_M1[-1] * self.power_share_S)[set_J] + np.sum(
            late_K2[client_J] * time_J2, axis=1
        )
        move_J = moves[0] * (np.sum(self.set_SM, axis=1) + self.power_share_S)[set_J] + time_J2 @ moves[1]
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
    """Weights of both bands' subchannels and total powers, and of the server, and prices of each client's seconds."""

    main_M1: Array
    fed_M1: Array
    server: float
    late_KT: Array

    @property
    def weights(self) -> tuple[Array, Array]:
        """Of both bands."""
        return self.main_M1, self.fed_M1

    def scaled(self, main: float, fed: float, ways: tuple[IntArray, IntArray]) -> Prices:
        """So many times the prices of each band, of which `ways` are the seconds."""
        late_KT = self.late_KT.copy()
        late_KT[:, np.unique(ways[0])] *= main
        late_KT[:, ways[1]] *= fed
        return Prices(main * self.main_M1, fed * self.fed_M1, main * self.server, late_KT)


# ("cut", client, cut), ("owner", band, client, subchannel) or ("time", which, seconds), where cuts count from 0
Divided = tuple[Any, ...]


def parts(
    by: Divided, allowed_KC: BoolArray, edges_T2: Array, hears: tuple[BoolArray, BoolArray]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is different in the part that has the cut or the owner, or is done sooner, and in the other."""
    kind, numbers = by[0], by[1:]
    if kind == "time":
        t, at_s = numbers
        sooner_T2, later_T2 = edges_T2.copy(), edges_T2.copy()
        sooner_T2[t, 1] = later_T2[t, 0] = at_s
        return {"edges_T2": sooner_T2}, {"edges_T2": later_T2}
    if kind == "cut":
        k, c = numbers
        only_KC, without_KC = allowed_KC.copy(), allowed_KC.copy()
        only_KC[k] &= np.arange(only_KC.shape[1]) == c
        without_KC[k, c] = False
        return {"allowed_KC": only_KC}, {"allowed_KC": without_KC}
    j, k, m = (int(n) for n in numbers)
    has, lacks = list(hears), list(hears)
    has[j], lacks[j] = hears[j].copy(), hears[j].copy()
    has[j][np.arange(len(has[j])) != k, m] = lacks[j][k, m] = False
    return {"hears": tuple(has)}, {"hears": tuple(lacks)}


@dataclass
class Trace:
    """What proves a part's bound: prices that were tried in turns, and the two parts it was divided into, if it was.

    Or each choice of cuts that prices leave open was closed by itself.
    """

    prices: list[Prices]
    divided: Divided = ()
    parts: tuple[Trace, ...] = ()
    closed: bool = False


class _Node(NamedTuple):
    """Part of an option set: a box of seconds, its cuts, who may own what in both bands, [K, M].

    With what is proved of it, by which prices, what its last program says, and what cuts cost at these prices if known.
    """

    bound_s: float
    number: int
    option_set: int
    edges_T2: Array
    allowed_KC: BoolArray
    hears: tuple[BoolArray, BoolArray]
    trace: Trace
    prices: Prices = Prices(np.zeros(0), np.zeros(0), 0.0, np.zeros((0, 0)))
    radius: float = _RADIUS
    solved: _Solved | None = None
    choice_KC: Array | None = None
    closed: int = 0  # how often its choices of cuts were closed, the second time thoroughly


class Found(NamedTuple):
    """A choice of cuts with owners of both bands that a program's solution suggests."""

    option_set: int
    choice_K: IntArray
    main_owner_M: IntArray
    fed_owner_M: IntArray


class _Solved(NamedTuple):
    """A program's value (s), its prices, and its solution: seconds, cuts, and shares of both bands' subchannels.

    `mean_T` and `star_T` are when a client's sets are done in the mean and the last of them.
    """

    value_s: float
    prices: Prices
    mean_T: Array
    star_T: Array
    share_KC: Array
    shares: tuple[Array, Array]


@dataclass(frozen=True, eq=False)
class _OptionSet:
    """What its cuts ask of both bands, the server's work (s a round; a step with shares), rounds to the target."""

    asks: tuple[Asks, Asks]
    work_s_KC: Array
    rounds: float
    allowed_KC: BoolArray


class CutPacking:
    """The search over boxes: `run` raises `lower_s`, a bound for every option set, and hands on what it finds."""

    def __init__(
        self, bands: tuple[BandTables, BandTables], option_sets: list[Options], steps: int, download_share: float,
        priced: bool, shared: bool, clock: Clock,
    ) -> None:  # fmt: skip
        self.times_T, self.shared, self.clock = np.array([steps, steps, 1.0, 1.0][shared:]), shared, clock
        # which of these both ways of both bands count to
        self.ways = (np.array([0, 1 - shared]), np.array([2 - shared, 3 - shared]))
        main, fed = bands
        self.bands = tuple(SetsOfBand(tables, priced) for tables in bands)
        self.option_sets = [
            _OptionSet(
                (
                    Asks(
                        o.up_bits_KC / main.band.effective_hz,
                        o.ready_s_KC,
                        o.down_bits_KC * priced,
                        o.back_s_KC,
                    ),
                    Asks(
                        o.fed_bits_KC / fed.band.effective_hz,
                        np.zeros(o.cut_KC.shape),
                        o.fed_bits_KC * (download_share * priced),
                        np.zeros(o.cut_KC.shape),
                    ),
                ),
                o.work_s_KC * (1 if shared else steps),
                o.rounds,
                o.allowed_KC,
            )
            for o in option_sets
        ]
        self.lower_s = [0.0] * len(option_sets)
        self.traces: list[Trace] = []  # of the option sets
        self.programs = 0

    def run(
        self,
        known: list[tuple[IntArray, IntArray]],
        least_s: list[list[float]],
        lower_s: list[float],
        near_of: Callable[[int], tuple[Array, Array]],
        goal_of: Callable[[], float],
        tell: Callable[[Found], None],
        close: Callable[[int, IntArray, bool], float] | None,
        programs: int,
        patient: bool = False,
    ) -> None:
        """Raise the bounds towards a goal (s of the total delay), which may fall, with so many linear programs.

        Args:
            known: owners of both bands to start from.
            least_s: what is proved of U, D, F and G (with shares of P, F and G) in each option set.
            lower_s: what is proved of the total delay in each option set.
            near_of: prices of an option set to start from: the sums of weights of each band and, where it is shared,
                of the server, and the price of each client's seconds.
            goal_of: total delay that is of interest.
            tell: is handed what programs suggest.
            close: no plan from an option set with a choice of cuts is faster (s), thoroughly or not; None where that is
                no easier to say than of all cuts.
            programs: how many are solved at most.
            patient: solve them even where they gain little, and go on where choices of cuts are not closed.
        """
        self.goal_of, self.tell, self.programs = goal_of, tell, programs
        for owners in known:
            for band, owner_M in zip(self.bands, owners, strict=True):
                clients = np.arange(len(band.most_K))
                band.add(clients, owner_M[None] == clients[:, None])
        queue: list[_Node] = []
        K = len(self.bands[0].most_K)
        even_KT, shares = np.tile(self.times_T / K, (K, 1)), _WEIGHTS
        roots = [self._root(*root) for root in zip(range(len(least_s)), least_s, lower_s, strict=True)]
        self.traces = [root.trace for root in roots]
        for node in sorted(roots):
            if node.bound_s >= goal_of():
                continue
            goal_s = goal_of() / self.option_sets[node.option_set].rounds
            for share in shares:  # sets to start with, of cheap and of dear subchannels
                self._choice(node, self._prices(share * goal_s * np.array([1.0, 1.0, 3.0]), even_KT), goal_s)
            weight_W, late_KT = near_of(node.option_set)
            prices = self._prices(weight_W, (1 - _EVEN) * late_KT + _EVEN * even_KT)
            shares, node = (), self._bounded(node._replace(prices=prices), _ROOT_PROGRAMS)
            if node.bound_s < np.inf:
                queue.append(node)
        heapq.heapify(queue)
        closed_s = [np.inf] * len(self.option_sets)
        number = len(self.option_sets)  # those of the option sets themselves come before
        last, seen_s, looked = number + _MOST_PARTS * programs, -np.inf, self.programs
        while number < last and queue and self.programs > 0 and not self.clock.expired and queue[0].bound_s < goal_of():
            if looked - self.programs >= _LOOK and not patient:
                if seen_s > -np.inf and queue[0].bound_s < seen_s + _PAYS * (goal_of() - seen_s):
                    break
                seen_s, looked = queue[0].bound_s, self.programs
            node = heapq.heappop(queue)
            choices = self._few_choices(node) if close else []
            if choices and node.closed == 2 and not patient:
                heapq.heappush(queue, node)
                break
            if close and choices and node.closed < (1 if patient else 2):
                closed = min(close(node.option_set, choice_K, node.closed == 1) for choice_K in choices)
                node = node._replace(bound_s=max(node.bound_s, closed), closed=node.closed + 1)
                if node.bound_s >= (1 - _WIDE) * goal_of():
                    node = node._replace(closed=2)
                node.trace.closed = node.bound_s >= goal_of()
                if not node.trace.closed:
                    heapq.heappush(queue, node)
                continue
            for child in self._divided(node, number):
                if child.bound_s < goal_of():
                    heapq.heappush(queue, child)
            number += 2
        for node in queue:
            closed_s[node.option_set] = min(closed_s[node.option_set], node.bound_s)
        self.lower_s = [min(one_s, goal_of()) * _SAFE for one_s in closed_s]

    def _few_choices(self, node: _Node) -> list[IntArray]:
        """All choices of cuts that the node's prices leave open; none where they are many."""
        if node.choice_KC is None:
            return []
        choice_KC = np.where(node.allowed_KC, node.choice_KC, np.inf)
        goal_s = self.goal_of() / self.option_sets[node.option_set].rounds
        more_KC = choice_KC - np.min(choice_KC, axis=1, keepdims=True)
        known: list[tuple[float, tuple[int, ...]]] = [((goal_s - self._bound(node, node.prices, choice_KC)), ())]
        for more_C in more_KC:  # of what is left, what each client's cut takes
            cuts = np.flatnonzero(np.isfinite(more_C)).tolist()
            known = [
                (left_s - more_C[c], (*chosen, c)) for left_s, chosen in known for c in cuts if more_C[c] <= left_s
            ]
            if len(known) > _CHOICES:
                return []
        return [np.array(chosen) for _, chosen in known]

    def _root(self, i: int, least: list[float], lower_s: float) -> _Node:
        """All of an option set, with what is known of its seconds."""
        one, first_T = self.option_sets[i], np.array(least)
        hears = [np.ones(band.problem.log_KM.shape, np.bool_) for band in self.bands]
        node = _Node(
            lower_s, i, i, np.stack((first_T, first_T), axis=1), one.allowed_KC, (hears[0], hears[1]), Trace([])
        )
        soonest_s = self._soonest_s(node)
        last_T = first_T + max(0.0, self.goal_of() / one.rounds - soonest_s) / self.times_T
        edges_T2 = np.stack((first_T, last_T), axis=1)
        return node._replace(bound_s=max(lower_s, one.rounds * soonest_s), edges_T2=edges_T2)

    def _prices(self, weight_W: Array, late_KT: Array) -> Prices:
        """All subchannels of a band alike."""
        main_M1, fed_M1 = (
            np.full(band.num_weights, weight / band.num_weights)
            for band, weight in zip(self.bands, weight_W.tolist(), strict=False)
        )
        return Prices(main_M1, fed_M1, float(np.sum(weight_W[2:])) * self.shared, late_KT)

    def _divided(self, node: _Node, number: int) -> list[_Node]:
        """Both parts of a node, bounded: by when the latest of the mixed sets are done, a client's cut, or an owner."""
        rounds, (first_T, last_T) = self.option_sets[node.option_set].rounds, node.edges_T2.T
        solved = node.solved
        missing_s = (self.goal_of() - node.bound_s) / rounds
        i = int(np.argmax(self.times_T * (last_T - first_T)))
        at_s = 0.5 * float(first_T[i] + last_T[i])
        if solved is not None:
            spread_T = self.times_T * (np.minimum(solved.star_T, last_T) - np.maximum(solved.mean_T, first_T))
            mixed_KC = np.minimum(solved.share_KC, 1 - solved.share_KC)
            mixed_KC = np.where(np.sum(node.allowed_KC, axis=1)[:, None] > 1, mixed_KC, 0.0)
            halves = [np.minimum(share_KM, 1 - share_KM) for share_KM in solved.shares]
            if np.max(spread_T) > _SPREAD * missing_s:
                i = int(np.argmax(spread_T))
                at_s = 0.5 * float(min(solved.star_T[i], last_T[i]) + max(solved.mean_T[i], first_T[i]))
            elif np.max(mixed_KC) > _MIXED:
                k, c = np.unravel_index(np.argmax(mixed_KC), mixed_KC.shape)
                return self._children(node, number, ("cut", int(k), int(c)))
            elif max(np.max(half_KM) for half_KM in halves) > _MIXED:
                j = int(np.argmax([np.max(half_KM) for half_KM in halves]))
                k, m = np.unravel_index(np.argmax(halves[j]), halves[j].shape)
                return self._children(node, number, ("owner", j, int(k), int(m)))
        return self._children(node, number, ("time", i, at_s))

    def _children(self, node: _Node, number: int, by: Divided) -> list[_Node]:
        node.trace.divided, node.trace.parts = by, (Trace([]), Trace([]))
        children = [
            node._replace(number=number + n, trace=node.trace.parts[n], choice_KC=None, closed=0, **part)
            for n, part in enumerate(parts(by, node.allowed_KC, node.edges_T2, node.hears))
        ]
        for n in {"cut": (0, 1), "time": (1,)}.get(by[0], ()):  # no set of these is late that was in time
            children[n] = children[n]._replace(choice_KC=node.choice_KC)
        return [self._bounded(child, _PROGRAMS) for child in children]

    def _bounded(self, node: _Node, most: int) -> _Node:
        """The node with its bound, the prices that prove it, and without cuts that no better plan has."""
        one = self.option_sets[node.option_set]
        node, radius, solved = self._begun(node), node.radius, None
        trial, best_s, center_s, stale = node.prices, node.bound_s / one.rounds, -np.inf, 0
        for turn in range(most):
            goal_s = self.goal_of() / one.rounds
            choice_KC = self._choice(node, trial, goal_s) if turn > 0 or node.choice_KC is None else node.choice_KC
            choice_KC = np.where(node.allowed_KC, choice_KC, np.inf)
            proved_s, least_K = self._bound(node, trial, choice_KC), np.min(choice_KC, axis=1)
            best_s = max(best_s, proved_s, self._soonest_s(node))
            node.trace.prices.append(trial)
            if best_s >= goal_s:  # where the soonest is no better, no program has a solution
                return node._replace(bound_s=np.inf)
            keeps_KC = choice_KC - least_K[:, None] <= (goal_s - proved_s) * (1 + 1e-9)
            node = node._replace(allowed_KC=node.allowed_KC & keeps_KC)
            node = node._replace(bound_s=one.rounds * best_s)
            stale = 0 if proved_s > center_s + _PAYS * (goal_s - best_s) else stale + 1
            if proved_s > center_s:
                wanted_s = 0.0 if solved is None else _GROWS * (solved.value_s - center_s)
                radius *= 1.0 if solved is None or proved_s - center_s < wanted_s else 2.0
                center_s, node = proved_s, node._replace(prices=trial, choice_KC=choice_KC)
            else:
                radius *= _SHRINK
            if solved is not None and (solved.value_s - center_s) * max(1.0, _FAR / radius) <= _NARROW * (
                goal_s - best_s
            ):
                break
            if (
                self.programs <= 0
                or radius < _LEAST_RADIUS
                or (stale == _STALE and most == _PROGRAMS)
                or self.clock.expired
            ):
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

    def _begun(self, node: _Node) -> _Node:
        """The node, with next to no prices of a band of which its first seconds alone prove more than these do."""
        goal_s, soonest_s = self.goal_of() / self.option_sets[node.option_set].rounds, self._soonest_s(node)
        begun, best_s = node, -np.inf
        for scales in ((1.0, 1.0), (_ASIDE, 1.0), (1.0, _ASIDE)):
            prices = node.prices.scaled(*scales, self.ways)
            known_KC = node.choice_KC if best_s == -np.inf else None
            choice_KC = self._choice(node, prices, goal_s) if known_KC is None else known_KC
            proved_s = self._bound(node, prices, np.where(node.allowed_KC, choice_KC, np.inf))
            if proved_s > best_s:
                best_s, begun = proved_s, node._replace(prices=prices, choice_KC=choice_KC)
            if proved_s >= soonest_s:
                break
        return begun

    def _bound(self, node: _Node, prices: Prices, choice_KC: Array) -> float:
        """No round of a node is shorter (s), infinite where there is none, if its cuts cost at least so much."""
        slope_T = self.times_T - np.sum(prices.late_KT, axis=0)
        at_T = np.where(slope_T >= 0, node.edges_T2[:, 0], node.edges_T2[:, 1])
        paid_s = (1 + _ROUNDING) * float(np.sum(prices.main_M1) + np.sum(prices.fed_M1) + prices.server)
        return float(np.sum(np.min(choice_KC, axis=1))) + float(slope_T @ at_T) - paid_s

    def _soonest_s(self, node: _Node) -> float:
        """A node's first seconds and, where it is not shared, the server's least work."""
        work_s_KC = np.where(node.allowed_KC, self.option_sets[node.option_set].work_s_KC * (not self.shared), np.inf)
        return float(self.times_T @ node.edges_T2[:, 0] + np.sum(np.min(work_s_KC, axis=1)))

    def _choice(self, node: _Node, prices: Prices, goal_s: float) -> Array:
        """The least that cuts cost at prices, [K, C] (s), infinite where a cut cannot be."""
        asks, share_KC2 = self.asked(node.option_set, node.edges_T2, node.allowed_KC)
        values = [
            band.cheapest(
                asks[j], self.edges(node.edges_T2, j), node.allowed_KC, node.hears[j], prices.weights[j],
                prices.late_KT[:, self.ways[j]], goal_s,
            )
            for j, band in enumerate(self.bands)
        ]  # fmt: skip
        fits_KC = node.allowed_KC & (share_KC2[..., 0] <= share_KC2[..., 1])
        served_KC = self.served_s(node.option_set, prices, share_KC2)
        return np.where(fits_KC, served_KC + values[0] + values[1], np.inf)

    def asked(self, i: int, edges_T2: Array, allowed_KC: BoolArray) -> tuple[tuple[Asks, Asks], Array]:
        """What cuts ask of both bands in a part, and the least and the largest share of the server, [K, C, 2]."""
        one = self.option_sets[i]
        if not self.shared:
            return one.asks, np.zeros((*one.work_s_KC.shape, 2))
        least_s_KC2 = self.bands[0].least_s(one.asks[0])
        left_s_KC = float(edges_T2[0, 1]) - np.sum(least_s_KC2, axis=2)
        least_KC = np.where(allowed_KC & (left_s_KC >= 0), transfer_s(one.work_s_KC, left_s_KC), np.inf) * _SAFE
        least_K = np.minimum(np.min(least_KC, axis=1), 1e9)
        most_K = np.clip(1.0 - (np.sum(least_K) - least_K), 0.0, 1.0)
        rest_s_KC2 = least_s_KC2[..., ::-1] + transfer_s(one.work_s_KC, most_K[:, None])[..., None] * _SAFE
        most_KC = np.broadcast_to(most_K[:, None], least_KC.shape)
        return (one.asks[0]._replace(rest_s_KC2=rest_s_KC2), one.asks[1]), np.stack((least_KC, most_KC), axis=2)

    def served_s(self, i: int, prices: Prices, share_KC2: Array) -> Array:
        """What the server's work of each cut costs at prices, between the least and the largest share, [K, C] (s)."""
        work_s_KC = self.option_sets[i].work_s_KC
        if not self.shared:
            return work_s_KC
        share_KC = np.where(share_KC2[..., 0] <= share_KC2[..., 1], self._share(i, prices, share_KC2), 1.0)
        return prices.late_KT[:, :1] * transfer_s(work_s_KC, share_KC) + prices.server * share_KC

    def _share(self, i: int, prices: Prices, share_KC2: Array) -> Array:
        """The share of the server that is cheapest for each cut."""
        paid_KC = prices.late_KT[:, :1] * self.option_sets[i].work_s_KC
        best_KC = np.sqrt(paid_KC / prices.server) if prices.server > 0 else np.full(paid_KC.shape, np.inf)
        return np.minimum(np.maximum(best_KC, share_KC2[..., 0]), share_KC2[..., 1])

    def edges(self, edges_T2: Array, j: int) -> Array:
        """When both ways of a band are done (s): no sooner, as long as service does not come between, and no later."""
        edges_22 = edges_T2[self.ways[j]].copy()
        edges_22[:, 0] *= not (self.shared and j == 0)
        return edges_22

    def _solve(self, node: _Node, most_s: float, radius: float) -> _Solved | None:
        """The best prices near a node's by the sets that are known, of which none costs more than `most_s`."""
        near, (asks, share_KC2) = node.prices, self.asked(node.option_set, node.edges_T2, node.allowed_KC)
        K, C, T = *node.allowed_KC.shape, len(self.times_T)
        rest_s = most_s - float(self.times_T @ node.edges_T2[:, 0])
        moves_M1 = [np.full(band.num_weights, radius * rest_s / band.num_weights) for band in self.bands]
        late_T = radius * self.times_T / K
        parts = [
            band.columns(
                asks[j], self.edges(node.edges_T2, j), node.allowed_KC, node.hears[j], near.weights[j],
                near.late_KT[:, self.ways[j]],
                (float(moves_M1[j][0]), late_T[self.ways[j]]),
            )
            for j, band in enumerate(self.bands)
        ]  # fmt: skip
        served = self._served(node, share_KC2)
        pair_P, place = np.flatnonzero(node.allowed_KC), np.zeros(K * C, np.int64)
        place[pair_P] = np.arange(len(pair_P))
        # variables: weights of both bands and the server, clients' prices; what each cut's cheapest sets of both bands
        # cost, what each client pays, and what the seconds that count cost besides
        weights = [*(band.num_weights for band in self.bands), 1]
        program = _Program([*weights, T * K, len(pair_P), len(pair_P), K, T])
        first = program.first
        for j, (band, part) in enumerate(zip(self.bands, parts, strict=True)):  # no cut's cheapest set costs more
            row_J = program.rows(np.zeros(len(part.set_J)))
            column_N, row_N = np.nonzero(band.set_SM[part.set_J])
            program.put(row_J, first[4 + j] + place[part.pair_J], 1.0)
            program.put(row_J[column_N], first[j] + row_N, -1.0)
            program.put(row_J, np.full(len(row_J), first[j + 1] - 1), -band.power_share_S[part.set_J])
            for way, t in enumerate(self.ways[j].tolist()):
                program.put(row_J, first[3] + part.pair_J // C * T + t, -part.time_J2[:, way])
        row_J = program.rows(served.work_s_J)  # no client pays more than for a cut and its share of the server
        program.put(row_J, first[6] + served.pair_J // C, 1.0)
        for j in range(2):
            program.put(row_J, first[4 + j] + place[served.pair_J], -1.0)
        program.put(row_J, np.full(len(row_J), first[2]), -served.share_J)
        program.put(row_J, first[3] + served.pair_J // C * T, -served.time_J)
        for t in range(T):  # of the seconds at both ends of the box, those that cost less
            row_2 = program.rows(self.times_T[t] * node.edges_T2[t])
            program.put(row_2, np.full(2, first[7] + t), 1.0)
            for n, edge_s in enumerate(node.edges_T2[t].tolist()):
                program.put(np.repeat(row_2[n : n + 1], K), first[3] + T * np.arange(K, dtype=np.int64) + t, edge_s)
        objective = np.concatenate((np.full(sum(weights), -1.0), np.zeros(T * K + 2 * len(pair_P)), np.ones(K + T)))
        center = np.concatenate((near.main_M1, near.fed_M1, [near.server], near.late_KT.ravel()))
        moves = np.concatenate((*moves_M1, [radius * rest_s * self.shared], np.tile(late_T, K)))
        solved = program.solve(objective, center, moves, most_s)
        if solved is None:
            return None
        value_s, found, share = solved
        found = [np.maximum(found[first[i] : first[i + 1]], 0.0) for i in range(4)]
        for weight_M1 in found[:2]:
            weight_M1[-1] = max(float(weight_M1[-1]), _WATT * most_s)
        ends_T2 = share[-2 * T :].reshape(T, 2)
        mean_T = np.sum(ends_T2 * node.edges_T2, axis=1) / np.maximum(np.sum(ends_T2, axis=1), 1e-300)
        latest_KT, shares, start = np.zeros((K, T)), list[Array](), 0
        for j, (band, part) in enumerate(zip(self.bands, parts, strict=True)):
            x_J = share[start : start + len(part.set_J)]
            start += len(part.set_J)
            used = np.flatnonzero(x_J > 1e-3)
            latest_K2, client_J = np.zeros((K, 2)), band.client_S[part.set_J[used]]
            np.maximum.at(latest_K2, client_J, part.time_J2[used])
            for way, t in enumerate(self.ways[j].tolist()):
                latest_KT[:, t] += latest_K2[:, way]
            share_KM = np.zeros(band.problem.log_KM.shape)
            np.add.at(share_KM, client_J, x_J[used][:, None] * band.set_SM[part.set_J[used]])
            shares.append(share_KM)
        share_P = np.zeros(K * C)
        x_J = share[start : start + len(served.pair_J)]
        np.add.at(share_P, served.pair_J, x_J)
        np.add.at(latest_KT[:, 0], served.pair_J // C, x_J * served.time_J)
        share_KC = np.where(node.allowed_KC, share_P.reshape(K, C), -1.0)
        prices = Prices(found[0], found[1], float(found[2][0]), found[3].reshape(K, T))
        star_T = np.maximum(mean_T, np.max(latest_KT, axis=0))
        return _Solved(value_s, prices, mean_T, star_T, share_KC, (shares[0], shares[1]))

    def _served(self, node: _Node, share_KC2: Array) -> _Served:
        """The server's work of every cut, or it with a few shares around the cheapest."""
        pair_J, work_s_P = np.flatnonzero(node.allowed_KC), self.option_sets[node.option_set].work_s_KC.ravel()
        if not self.shared:
            none_J = np.zeros(len(pair_J))
            return _Served(pair_J, work_s_P[pair_J], none_J, none_J)
        share_KCJ = self._share(node.option_set, node.prices, share_KC2)[..., None] * _SHARES
        share_KCJ = np.minimum(np.maximum(share_KCJ, share_KC2[..., :1]), share_KC2[..., 1:])
        share_J = share_KCJ.reshape(-1, len(_SHARES))[pair_J].ravel()
        pair_J = np.repeat(pair_J, len(_SHARES))
        time_J = transfer_s(work_s_P[pair_J], share_J)
        kept = np.isfinite(time_J)
        return _Served(pair_J[kept], np.zeros(np.count_nonzero(kept)), share_J[kept], time_J[kept])


class _Served(NamedTuple):
    """Ways to be served in a program: client and cut as a flat number, what it costs (s), the share, and its time."""

    pair_J: IntArray
    work_s_J: Array
    share_J: Array
    time_J: Array


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

        The variables of the first four blocks stay within `move` of `center` and are not negative; those of the next
        two are at most `most`. Solved is the dual, which has fewer rows.
        """
        from scipy.optimize import linprog  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]
        from scipy.sparse import coo_array  # pyright: ignore[reportMissingTypeStubs]

        near, large = np.arange(self.first[4]), np.arange(self.first[4], self.first[6])
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
        solved: Any = linprog(
            limits,
            A_eq=matrix,
            b_eq=objective,
            method="highs-ds",
            options={"presolve": False, "simplex_dual_edge_weight_strategy": "steepest-devex"},
        )
        if solved.status != 0:
            return None
        variables, share = (np.asarray(x, dtype=np.float64) for x in (solved.eqlin.marginals, solved.x[:num_rows]))
        return float(solved.fun), variables, share
