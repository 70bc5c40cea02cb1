"""Bound and decisions by matching, where clients choose their cuts and there are hardly more subchannels than clients.

A round of I steps takes I (U + sum_k work_k + D) + F + G, with the last activations at U, the last backward pass D
after the server, and the adapters F up and G down; where each client has a share of the server, I P + F + G with the
last second P of a step. What a client owns of a band has a strongest subchannel, another one for every client
(`matching`). With that, and at times by which all are done, a cut takes so many subchannels at least, and so much of
the server: of its seconds, or the share with which the client is done by P. So no round has its times in a box if with
any matching of clients to strongest subchannels, each at a cut of its own, these take more of a band or of the server
than there is. Boxes are first narrowed: no time is sooner than matching allows with the others at their latest, none
later than the goal allows with the others at their soonest, and no client has a cut with which it is not matched. That
no choice of cuts fits both bands is proved by prices: whatever each client's cut costs in one band and saves in the
other, both matchings together take no less. What is left open is told apart by times, or by a client's cut where both
bands suggest different ones.
Shape suffixes: K clients, M subchannels, C cuts, N numbers of subchannels, W subchannels and none at all for each
client, T for U, D, F and G or P, F and G, 2 for first and last times.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from wavetune.allocation.both_ways import BothWays
from wavetune.allocation.cut_packing import Asks, Found, parts
from wavetune.allocation.decision import Options
from wavetune.allocation.delay import transfer_s
from wavetune.allocation.effort import Clock
from wavetune.allocation.matching import linear_sum_assignment
from wavetune.allocation.problem import BoolArray, IntArray
from wavetune.allocation.relaxation import rate_needed
from wavetune.units import Array

_SAFE, _ROUNDING = 1 - 1e-9, 1e-9
_NEVER = 1e3  # value of what cannot be, where 1 is what there is
_WEIGHINGS, _HALVINGS, _PASSES = 6, 3, 3
_PAYS = 0.8  # of a box's width: with more than that left another pass is not worth it
_NARROW, _PRICED, _STEP, _BEYOND = 0.5, 20, 0.7, 1.05  # box from which on cuts are priced: so often, how far, to what
_PRICED_ROUNDING = 1e-7
# dividing ends where from so many boxes to twice as many so much of them stays open, and so much of the gap
_TRIED, _STILL_OPEN, _GAP_LEFT = 32, 0.45, 0.99
_POINT = 1e-4  # of the goal: a box that is no wider, with cuts that both bands agree on, can be
_SPREAD = 0.25  # of what is missing: a time that is open by more is halved before cuts are told apart


class Taken(NamedTuple):
    """Subchannels beyond the fewest, and shares of the server, that cuts take with each strongest subchannel.

    Both are [N, K, C, W], infinite where a cut cannot be; N are ways to take more of one and less of the other.
    """

    more_NKCW: Array
    server_NKCW: Array
    spare: int


class Matched(NamedTuple):
    """Whether a matching takes no more than there is, as far as it is known, and what it takes.

    `server` is the share of the server that is taken at least, `choice_K` are cuts, `place_K` strongest subchannels,
    `more_K` subchannels beyond the fewest, and `value_KCW` what each cut takes at the last weight.
    """

    fits: bool
    server: float
    choice_K: IntArray
    place_K: IntArray
    more_K: IntArray
    value_KCW: Array


def value_of(taken: Taken, allowed_KC: BoolArray, weight: float) -> tuple[Array, Array]:
    """What each cut takes at least of what there is, [K, C, W], and in each way; so much weight is on subchannels."""
    value_NKCW = weight / max(taken.spare, 1) * taken.more_NKCW + (1 - weight) * taken.server_NKCW
    return np.where(allowed_KC[:, :, None], np.min(value_NKCW, axis=0), _NEVER), value_NKCW


def match(taken: Taken, allowed_KC: BoolArray, weight: float) -> Matched:
    """The matching that takes the least, with so much weight on subchannels, and the rest on the server, at first."""
    low, high, least, clients = 0.0, 1.0, 0.0, np.arange(len(allowed_KC))
    for turn in range(_WEIGHINGS):
        value_KCW, value_NKCW = value_of(taken, allowed_KC, weight)
        value_KW = np.min(value_KCW, axis=1)
        _, place_K = linear_sum_assignment(value_KW)
        value = float(np.sum(value_KW[clients, place_K]))
        choice_K = np.argmin(value_KCW[clients, :, place_K], axis=1)
        way_K = np.argmin(value_NKCW[:, clients, choice_K, place_K], axis=0)
        more_K, server_K = (x[way_K, clients, choice_K, place_K] for x in (taken.more_NKCW, taken.server_NKCW))
        least = value if weight == 0 else least
        more, fits = float(np.sum(more_K)), value <= 1 + _ROUNDING
        if not fits or (more <= taken.spare and np.sum(server_K) <= 1) or turn == _WEIGHINGS - 1:
            return Matched(fits, least, choice_K, place_K, np.rint(more_K).astype(np.int64), value_KCW)
        low, high = (weight, high) if more > taken.spare else (low, weight)
        weight = 0.5 * (low + high)
    raise AssertionError


def agree(taken: Sequence[Taken], allowed_KC: BoolArray, price_KC: Array) -> bool:
    """Whether a choice of cuts may fit both bands, as far as prices of cuts tell that add up to nothing in both.

    These start from `price_KC`, which is moved. What there is of subchannels and of the server in both bands weighs 1
    together, and the more the more of it is taken.
    """
    clients = np.arange(len(allowed_KC))
    never = [np.where(one.server_NKCW < _NEVER, 0.0, _NEVER) for one in taken]
    parts_2 = [np.stack((one.more_NKCW / max(one.spare, 1), one.server_NKCW)) for one in taken]
    used_2 = [np.any(x > 0, axis=(1, 2, 3, 4), where=none < _NEVER) for x, none in zip(parts_2, never, strict=True)]
    weight_22 = np.array(used_2, np.float64) / max(np.sum(used_2), 1)
    for _ in range(_PRICED):
        choices, value, used_22 = list[IntArray](), 0.0, np.zeros((2, 2))
        for j, sign in enumerate((1.0, -1.0)):
            value_NKCW = np.tensordot(weight_22[j], parts_2[j], axes=1) + never[j]
            value_KCW = np.where(allowed_KC[:, :, None], np.min(value_NKCW, axis=0), _NEVER)
            value_KCW += sign * price_KC[:, :, None]
            value_KW = np.min(value_KCW, axis=1)
            _, place_K = linear_sum_assignment(value_KW)
            value += float(np.sum(value_KW[clients, place_K]))
            choices.append(np.argmin(value_KCW[clients, :, place_K], axis=1))
            way_K = np.argmin(value_NKCW[:, clients, choices[j], place_K], axis=0)
            used_22[j] = np.sum(parts_2[j][:, way_K, clients, choices[j], place_K], axis=1)
        differ_K = choices[0] != choices[1]
        if value > 1 + _PRICED_ROUNDING:
            return False
        if not np.any(differ_K) and np.all(used_22 <= 1):
            return True
        missing = min(_BEYOND - value, 2.0)
        weight_22 *= np.exp(_STEP * missing * np.clip(used_22 - 1, -1, 1))
        weight_22 /= max(float(np.sum(weight_22)), 1e-300)
        step = _STEP * missing / max(2 * int(np.sum(differ_K)), 1)
        price_KC[clients[differ_K], choices[0][differ_K]] += step
        price_KC[clients[differ_K], choices[1][differ_K]] -= step
    return True


def cuts_that_fit(matched: Matched, allowed_KC: BoolArray) -> BoolArray:
    """The cuts with which a client may be matched without more being taken than there is."""
    value_KCW = matched.value_KCW
    value_KW, fits_KC = np.min(value_KCW, axis=1), allowed_KC & (np.min(value_KCW, axis=2) < _NEVER)
    for k, c in np.argwhere(fits_KC).tolist():
        if c != matched.choice_K[k]:
            forced_KW = value_KW.copy()
            forced_KW[k] = value_KCW[k, c]
            fits_KC[k, c] = float(np.sum(forced_KW[linear_sum_assignment(forced_KW)])) <= 1 + _ROUNDING
    return fits_KC


class CrowdedBand:
    """A band with its tables, and what each client's cut asks of it and of the server."""

    def __init__(self, ways: BothWays, asks: Asks, work_s_KC: Array, shared: bool) -> None:
        matching = self.matching = ways.strongest
        self.unit, self.asks, self.work_s_KC, self.shared = ways.unit, asks, work_s_KC, shared
        K, M, self.most = matching.up_KMN.shape
        # with so many at most, and with all that are weaker
        self.up_NKM = np.concatenate((np.moveaxis(matching.up_KMN, 2, 0), matching.up_KM[None]))
        self.back_NKM = np.concatenate((np.moveaxis(matching.back_KMN, 2, 0), matching.back_KM[None]))
        none_KC = (asks.need_KC <= 0) & (asks.down_bits_KC <= 0)
        self.none_KCK = none_KC[:, :, None] & np.eye(K, dtype=np.bool_)[:, None]
        self.fewest_K1 = 1.0 - np.any(none_KC, axis=1)[:, None, None]
        self.spare = M - int(np.sum(self.fewest_K1))

    def taken(self, last_T: Array, limit: float) -> Taken:
        """What cuts take to be done by last times, of at most `limit` of the server (s, or 1 where it is shared)."""
        more_NKCM, server_NKCM = self._in_parts(last_T) if self.shared else self._together(last_T)
        asks, served = self.asks, transfer_s(self.work_s_KC, last_T[:1]) if self.shared else self.work_s_KC
        on_time_KC = asks.ready_s_KC <= last_T[0]
        on_time_KC &= (served <= 1) if self.shared else (asks.after_s_KC <= last_T[1])
        none_KCK = self.none_KCK & on_time_KC[:, :, None]
        N = len(more_NKCM)
        own_NKCK = np.broadcast_to(np.where(none_KCK, 0.0, np.inf), (N, *none_KCK.shape))
        more_NKCW = np.concatenate((more_NKCM, own_NKCK), axis=3) - self.fewest_K1
        server_NKCW = np.concatenate((server_NKCM, np.broadcast_to(served[:, :, None], own_NKCK.shape)), axis=3)
        server_NKCW = server_NKCW * (_SAFE / max(limit, 1e-300))
        never_NKCW = (more_NKCW > self.spare) | (server_NKCW > 1)
        more_NKCW[never_NKCW], server_NKCW[never_NKCW] = _NEVER * max(self.spare, 1), _NEVER
        return Taken(more_NKCW, server_NKCW, self.spare)

    def _together(self, last_T: Array) -> tuple[Array, Array]:
        asks = self.asks
        rate_KC1 = rate_needed(asks.need_KC, float(last_T[0]) - asks.ready_s_KC)[:, :, None] * _SAFE
        back_KC1 = rate_needed(asks.down_bits_KC, float(last_T[1]) - asks.after_s_KC)[:, :, None] * (_SAFE / self.unit)
        more_KCM = np.ones((*asks.need_KC.shape, self.up_NKM.shape[2]))
        never_KCM = np.zeros(more_KCM.shape, np.bool_)
        for up_KM, back_KM in zip(self.up_NKM, self.back_NKM, strict=True):
            never_KCM = (up_KM[:, None] < rate_KC1) | (back_KM[:, None] < back_KC1)
            more_KCM += never_KCM
        more_KCM[never_KCM] = np.inf
        return more_KCM[None], np.broadcast_to(self.work_s_KC[:, :, None], (1, *more_KCM.shape))

    def _in_parts(self, last_T: Array) -> tuple[Array, Array]:
        asks = self.asks
        left_s_KC = float(last_T[0]) * (1 + _ROUNDING) - asks.ready_s_KC - asks.after_s_KC
        shares = list[Array]()
        for up_KM, back_KM in zip(self.up_NKM, self.back_NKM, strict=True):
            up_s_KCM = transfer_s(asks.need_KC[:, :, None], np.maximum(up_KM[:, None], 0.0))
            back_s_KCM = transfer_s(asks.down_bits_KC[:, :, None] / self.unit, np.maximum(back_KM[:, None], 0.0))
            left_s_KCM = left_s_KC[:, :, None] - up_s_KCM - back_s_KCM
            share_KCM = transfer_s(np.broadcast_to(self.work_s_KC[:, :, None], left_s_KCM.shape), left_s_KCM)
            shares.append(np.where(left_s_KCM >= 0, share_KCM, np.inf))
        more_N = np.arange(1.0, len(shares) + 1)
        more_NKCM = np.broadcast_to(more_N[:, None, None, None], (len(shares), *shares[0].shape)).copy()
        return more_NKCM, np.stack(shares)

    def owners(self, matched: Matched) -> IntArray:
        """Who owns what: the strongest subchannels, and the best free ones for those who take more."""
        M = self.up_NKM.shape[2]
        owner_M = np.full(M, -1)
        for k, i in enumerate(matched.place_K.tolist()):
            if i < M:
                owner_M[i] = k
        for k in np.argsort(-matched.more_K, kind="stable").tolist():
            for _ in range(int(matched.more_K[k])):
                owner_M[np.argmax(np.where(owner_M < 0, self.matching.problem.log_KM[k], -np.inf))] = k
        return owner_M


class _Node(NamedTuple):
    """A box of times of an option set, with its cuts, what is matched in both bands, and a bound of the delay (s)."""

    bound_s: float
    number: int
    option_set: int
    edges_T2: Array
    allowed_KC: BoolArray
    matched: tuple[Matched, ...] = ()


class CutMatching:
    """The search over boxes: `run` raises `lower_s`, a bound for every option set, and hands on what it finds."""

    def __init__(
        self, ways: tuple[BothWays, BothWays], option_sets: Sequence[Options], steps: int, download_share: float,
        priced: bool, shared: bool, clock: Clock,
    ) -> None:  # fmt: skip
        self.times_T, self.shared, self.clock = np.array([steps, steps, 1.0, 1.0][shared:]), shared, clock
        self.ways = (np.arange(2 - shared), np.arange(2 - shared, 4 - shared))
        self.option_sets, self.bands = list(option_sets), list[tuple[CrowdedBand, CrowdedBand]]()
        for o in option_sets:
            none_KC = np.zeros(o.cut_KC.shape)
            up_KC, fed_KC = (
                bits_KC / one.band.effective_hz
                for bits_KC, one in zip((o.up_bits_KC, o.fed_bits_KC), ways, strict=True)
            )
            main = Asks(up_KC, o.ready_s_KC, o.down_bits_KC * priced, o.back_s_KC)
            fed = Asks(fed_KC, none_KC, o.fed_bits_KC * (download_share * priced), none_KC)
            work_s_KC = o.work_s_KC * (1 if shared else steps)
            self.bands.append(
                (CrowdedBand(ways[0], main, work_s_KC, shared), CrowdedBand(ways[1], fed, none_KC, False))
            )
        self.lower_s = [0.0] * len(option_sets)
        self.looked = 0

    def run(
        self, least_s: list[list[float]], lower_s: list[float], goal_of: Callable[[], float],
        tell: Callable[[Found], None], close: Callable[[int, IntArray, bool], float] | None, most: int,
    ) -> None:  # fmt: skip
        """Raise the bounds towards a goal (s of the total delay), which may fall, looking at so many boxes.

        Args:
            least_s: what is proved of U, D, F and G (with shares of P, F and G) in each option set.
            lower_s: what is proved of the total delay in each option set.
            goal_of: total delay that is of interest.
            tell: is handed owners and cuts that may be better.
            close: no plan from an option set with a choice of cuts is faster (s), thoroughly or not; None where that is
                no easier to say than of all cuts.
            most: how many are looked at.
        """
        self.goal_of, queue, told = goal_of, list[_Node](), set[tuple[int, bytes]]()
        closed_s = [np.inf] * len(self.lower_s)  # of choices that nothing is left to say of
        for i, first in enumerate(least_s):
            edges_T2 = np.stack((np.array(first), np.full(len(first), np.inf)), axis=1)
            asks = self.bands[i][1].asks
            for t, asked_KC in ((-2, asks.need_KC), (-1, asks.down_bits_KC)):
                if not np.any(asked_KC > 0):
                    edges_T2[t, 1] = edges_T2[t, 0]  # nobody waits for F or G
            root = self._narrowed(_Node(lower_s[i], 0, i, edges_T2, self.option_sets[i].allowed_KC))
            queue += [root] if root.bound_s < goal_of() else []
        heapq.heapify(queue)
        look_again, were_open, gap_was_s = _TRIED, 0, 0.0
        while queue and self.looked < most and queue[0].bound_s < min(goal_of(), *closed_s) and not self.clock.expired:
            if self.looked >= look_again:
                gap_s, opened = goal_of() - queue[0].bound_s, len(queue) - were_open
                if opened > _STILL_OPEN * self.looked / 2 and 0 < _GAP_LEFT * gap_was_s < gap_s:
                    break  # matching closes no box, however small
                look_again, were_open, gap_was_s = 2 * self.looked, len(queue), gap_s
            node = heapq.heappop(queue)
            for found in self._found(node):
                if (key := (found.option_set, found.choice_K.tobytes())) not in told:
                    told.add(key)
                    tell(found)
            proved_s = self._final_s(node, close)
            closed_s[node.option_set] = min(closed_s[node.option_set], proved_s)
            if proved_s < np.inf:
                continue
            for child in self._divided(node):
                if child.bound_s < goal_of():
                    heapq.heappush(queue, child)
        for i in range(len(self.lower_s)):
            open_s = min((node.bound_s for node in queue if node.option_set == i), default=np.inf)
            self.lower_s[i] = min(open_s, closed_s[i], goal_of()) * _SAFE

    def _final_s(self, node: _Node, close: Callable[[int, IntArray, bool], float] | None) -> float:
        """What is proved of a node of which nothing more will be (s), infinite of others."""
        if close and np.all(np.sum(node.allowed_KC, axis=1) == 1):  # nothing is tied any more
            choice_K = np.argmax(node.allowed_KC, axis=1)
            return max(node.bound_s, *(close(node.option_set, choice_K, thorough) for thorough in (False, True)))
        width_s = self.option_sets[node.option_set].rounds * float(self.times_T @ np.ptp(node.edges_T2, axis=1))
        main, fed = (one.choice_K for one in node.matched)
        return node.bound_s if width_s <= _POINT * self.goal_of() and np.array_equal(main, fed) else np.inf

    def _limit(self, node: _Node, j: int) -> float:
        """What there is of the server: seconds of a round, or all of it where it is shared."""
        goal_s = self.goal_of() / self.option_sets[node.option_set].rounds
        return 1.0 if self.shared or j == 1 else goal_s - float(self.times_T @ node.edges_T2[:, 0])

    def _weight(self, node: _Node, j: int) -> float:
        """Weight of subchannels at first: none where there are none to spare, all where nothing is served."""
        band = self.bands[node.option_set][j]
        return 0.0 if band.spare == 0 else 1.0 if j == 1 else 0.5 * self.shared

    def _taken(self, node: _Node, j: int, last_T: Array, limit: float) -> Taken:
        return self.bands[node.option_set][j].taken(last_T[self.ways[j]], limit)

    def _matched(self, node: _Node, j: int, last_T: Array, limit: float) -> Matched:
        return match(self._taken(node, j, last_T, limit), node.allowed_KC, self._weight(node, j))

    def _narrowed(self, node: _Node) -> _Node:
        """The node with a smaller box, fewer cuts and a larger bound; infinite where there is no round as soon."""
        self.looked += 1
        node = node._replace(number=self.looked)
        rounds, edges_T2, served_s = self.option_sets[node.option_set].rounds, node.edges_T2.copy(), 0.0
        closed, found = node._replace(bound_s=np.inf), dict[int, Matched]()
        width_s = np.inf
        for turn in range(2 * _PASSES):
            j, goal_s = turn % 2, self.goal_of() / rounds
            missing_s = goal_s - float(self.times_T @ edges_T2[:, 0])
            edges_T2[:, 1] = np.minimum(edges_T2[:, 1], edges_T2[:, 0] + (missing_s - served_s) / self.times_T)
            if missing_s <= served_s or np.any(edges_T2[:, 1] < edges_T2[:, 0]):
                return closed
            before_s, width_s = width_s, float(self.times_T @ np.ptp(edges_T2, axis=1))
            if turn % 2 == 0 and width_s > _PAYS * before_s:
                break
            limit = 1.0 if self.shared or j == 1 else missing_s
            matched = self._matched(node, j, edges_T2[:, 1], limit)
            if not matched.fits:
                return closed
            if not self.shared and j == 0:
                served_s = max(served_s, matched.server * limit)
            node = node._replace(allowed_KC=cuts_that_fit(matched, node.allowed_KC))
            for t in self.ways[j].tolist():
                low_s, high_s = edges_T2[t].tolist()
                for _ in range(_HALVINGS):
                    last_T = edges_T2[:, 1].copy()
                    last_T[t] = 0.5 * (low_s + high_s)
                    if self._matched(node, j, last_T, limit).fits:
                        high_s = float(last_T[t])
                    else:
                        low_s = float(last_T[t])
                edges_T2[t, 0] = low_s
            found[j] = matched
        bound_s = rounds * (float(self.times_T @ edges_T2[:, 0]) + served_s) * _SAFE
        node = node._replace(bound_s=max(node.bound_s, bound_s), edges_T2=edges_T2, matched=(found[0], found[1]))
        spread_s = np.max(self.times_T * np.ptp(edges_T2, axis=1)) * rounds
        return self._tied(node, served_s) if spread_s < _NARROW * (self.goal_of() - node.bound_s) else node

    def _tied(self, node: _Node, served_s: float) -> _Node:
        """The node with a smaller box, and a larger bound, by what no choice of cuts does in both bands.

        The server's work takes so long at least.
        """
        price_KC, edges_T2 = np.zeros(node.allowed_KC.shape), node.edges_T2.copy()

        def agrees(last_T: Array) -> bool:
            taken = [self._taken(node, j, last_T, self._limit(node, j)) for j in (0, 1)]
            return agree(taken, node.allowed_KC, price_KC)

        if not agrees(edges_T2[:, 1]):
            return node._replace(bound_s=np.inf)
        for t in range(len(self.times_T)):
            low_s, high_s = edges_T2[t].tolist()
            for _ in range(_HALVINGS):
                last_T = edges_T2[:, 1].copy()
                last_T[t] = 0.5 * (low_s + high_s)
                low_s, high_s = (low_s, float(last_T[t])) if agrees(last_T) else (float(last_T[t]), high_s)
            edges_T2[t, 0] = low_s
        bound_s = self.option_sets[node.option_set].rounds * (float(self.times_T @ edges_T2[:, 0]) + served_s) * _SAFE
        return node._replace(edges_T2=edges_T2, bound_s=max(node.bound_s, bound_s))

    def _found(self, node: _Node) -> list[Found]:
        """Choices of cuts that suit one band the best, with owners of both."""
        bands, clients, found = self.bands[node.option_set], np.arange(len(node.allowed_KC)), list[Found]()
        for choice_K in (one.choice_K for one in node.matched):
            only_KC = np.zeros(node.allowed_KC.shape, np.bool_)
            only_KC[clients, choice_K] = True
            only = node._replace(allowed_KC=only_KC)
            both = [
                self._matched(only, j, node.edges_T2[:, 1], 1e300 if j == 0 and not self.shared else 1.0)
                for j in (0, 1)
            ]
            if all(one.fits for one in both):
                owners = (band.owners(one) for band, one in zip(bands, both, strict=True))
                found.append(Found(node.option_set, choice_K, *owners))
        return found

    def _divided(self, node: _Node) -> list[_Node]:
        """Both parts of a node, narrowed."""
        rounds = self.option_sets[node.option_set].rounds
        missing_s = (self.goal_of() - node.bound_s) / rounds
        width_T = self.times_T * np.ptp(node.edges_T2, axis=1)
        t, choices = int(np.argmax(width_T)), [one.choice_K for one in node.matched]
        differ_K = choices[0] != choices[1]
        if width_T[t] <= _SPREAD * missing_s and np.any(differ_K):
            k = int(np.argmax(differ_K * np.sum(node.allowed_KC, axis=1)))
            by = "cut", k, int(choices[0][k])
        else:
            by = "time", t, 0.5 * float(np.sum(node.edges_T2[t]))
        hears = np.zeros((0, 0), np.bool_), np.zeros((0, 0), np.bool_)
        return [self._narrowed(node._replace(**part)) for part in parts(by, node.allowed_KC, node.edges_T2, hears)]
