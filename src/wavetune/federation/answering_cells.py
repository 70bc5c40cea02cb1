"""Cells whose plans answer each other: what each plan sends into the others, until it settles."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from wavetune.allocation.plan import Allocation, Plan
from wavetune.allocation.problem import Problem, RadioBand
from wavetune.units import Array

MOST_TURNS = 12
SETTLED = 0.01  # the largest relative change of a cell's delay from one turn to the next


@dataclass(frozen=True)
class Heard:
    """Interference in one cell's band, W: [M] at its base station, and [K, M] at its devices."""

    at_server_w_M: Array
    at_devices_w_KM: Array


@dataclass(frozen=True)
class Settled:
    """What this cell hears in its main and fed band when all have planned for as long as plans kept changing.

    Args:
        main, fed: the interference.
        alone_s: delay of this cell's plan where nobody else sends.
        delays_s: that of its plan in each turn.
        settled: whether no cell's delay changed by more than a hundredth in the last turn.
        cells: how many there are, this one included.
    """

    main: Heard
    fed: Heard
    alone_s: float
    delays_s: tuple[float, ...]
    settled: bool
    cells: int

    @property
    def sentence(self) -> str:
        """How plans came to rest, and what the other cells cost this one.

        >>> none = Heard(np.zeros(1), np.zeros((1, 1)))
        >>> Settled(none, none, 10.0, (14.0, 12.0, 12.05), True, 7).sentence
        '7 cells answer each other: settled after 3 turns, 20.5% longer than where nobody else sends'
        """
        last = self.delays_s[-3:]
        rest = f"settled after {len(self.delays_s)} turns"
        if not self.settled:
            apart = max(last) / min(last) - 1
            rest = f"not settled after {len(self.delays_s)} turns, the last delays lie {apart:.1%} apart"
        if not np.isfinite(self.alone_s * self.delays_s[-1]):
            return f"{self.cells} cells answer each other: {rest}; this one has no plan"
        longer = self.delays_s[-1] / self.alone_s - 1
        return f"{self.cells} cells answer each other: {rest}, {longer:.1%} longer than where nobody else sends"


def settle(problems: Sequence[Problem], gain_CCK: Array, plan: Callable[[int, Problem, Plan | None], Plan]) -> Settled:
    """Let cells plan in turns, each on the mean of what the others' plans have sent so far (fictitious play).

    In a turn all cells plan at once. A client sends for its own airtime of a round, a base station sends on a
    subchannel for as long as its owner receives, with equal power on each.

    Formula: I_bm = sum over cells a != b of tau_k p_am g_kb with owner k of m in cell a and its share tau_k of a round;
    at device j of b, sum over a of tau_k P_down / M g_ja.

    Args:
        problems: of each cell, with the interference of none of the others; the first is this cell's.
        gain_CCK: [a, b, k] gain between device k of cell a and the base station of cell b.
        plan: plans a cell's problem, from its last plan on. A cell without a plan is silent.
    """
    plans: list[Plan | None] = [plan(c, problem, None) for c, problem in enumerate(problems)]
    alone_s, delays_s, settled = _delay_s(plans[0]), list[list[float]](), False
    mean = [_heard(problems, plans, gain_CCK, c) for c in range(len(problems))]
    for turn in range(MOST_TURNS):
        new = [_heard(problems, plans, gain_CCK, c) for c in range(len(problems))]
        mean = [_mixed(old, now, 1 / (turn + 1)) for old, now in zip(mean, new, strict=True)]
        plans = [
            plan(c, _with(problem, *mean[c]), before)
            for c, (problem, before) in enumerate(zip(problems, plans, strict=True))
        ]
        delays_s.append([_delay_s(one) for one in plans])
        settled = len(delays_s) > 1 and all(
            before == now or abs(now / before - 1) <= SETTLED for before, now in zip(*delays_s[-2:], strict=True)
        )
        if settled:
            break
    return Settled(*mean[0], alone_s, tuple(of[0] for of in delays_s), settled, len(problems))


def with_heard(problem: Problem, settled: Settled) -> Problem:
    """A problem of this cell with what it hears of the others."""
    return _with(problem, settled.main, settled.fed)


def _delay_s(plan: Plan | None) -> float:
    return np.inf if plan is None else plan.delay_s


def _with(problem: Problem, main: Heard, fed: Heard) -> Problem:
    def heard(band: RadioBand, more: Heard) -> RadioBand:
        return replace(
            band,
            interference_w_M=band.interference_w_M + more.at_server_w_M,
            downlink_interference_w_KM=band.downlink_interference_w + more.at_devices_w_KM,
        )

    return replace(problem, main=heard(problem.main, main), fed=heard(problem.fed, fed))


def _mixed(old: tuple[Heard, Heard], new: tuple[Heard, Heard], share: float) -> tuple[Heard, Heard]:
    main, fed = (
        Heard(
            (1 - share) * a.at_server_w_M + share * b.at_server_w_M,
            (1 - share) * a.at_devices_w_KM + share * b.at_devices_w_KM,
        )
        for a, b in zip(old, new, strict=True)
    )
    return main, fed


def _heard(problems: Sequence[Problem], plans: Sequence[Plan | None], gain_CCK: Array, b: int) -> tuple[Heard, Heard]:
    """What cell b hears of the plans of all others, in its main and fed band."""
    others = [(a, plan) for a, plan in enumerate(plans) if a != b and plan is not None and plan.status == "ok"]

    def of_band(band: RadioBand, sent: Callable[[int, Plan], tuple[Array, Array]]) -> Heard:
        at_server_w_M = np.zeros(band.num_subchannels)
        at_devices_w_KM = np.zeros((problems[b].num_clients, band.num_subchannels))
        for a, plan in others:
            up_w_M, down_w_M = sent(a, plan)
            at_server_w_M += up_w_M
            at_devices_w_KM += gain_CCK[b, a][:, None] * down_w_M
        return Heard(at_server_w_M, at_devices_w_KM)

    def main(a: int, plan: Plan) -> tuple[Array, Array]:
        phases = plan.phases
        up_s_K, down_s_K = (phases.repeat * s.sum(axis=0) for s in (phases.uplink_s, phases.downlink_s))
        return _sent(problems[a].main, plan.main, gain_CCK[a, b], up_s_K / phases.round_s, down_s_K / phases.round_s)

    def fed(a: int, plan: Plan) -> tuple[Array, Array]:
        phases = plan.phases
        shares = (phases.fed_upload_s / phases.round_s, phases.fed_download_s / phases.round_s)
        return _sent(problems[a].fed, plan.fed, gain_CCK[a, b], *shares)

    return of_band(problems[b].main, main), of_band(problems[b].fed, fed)


def _sent(
    band: RadioBand, chosen: Allocation, gain_K: Array, up_share_K: Array, down_share_K: Array
) -> tuple[Array, Array]:
    """[M] what devices send to another base station, and what their own sends, W on average over a round."""
    used_M, owner_M = chosen.owner_M >= 0, np.maximum(chosen.owner_M, 0)
    up_w_M = np.where(used_M, (up_share_K * gain_K)[owner_M] * chosen.power_w_M, 0.0)
    each_w = band.downlink_power_w / band.num_subchannels
    return up_w_M, np.where(used_M, down_share_K[owner_M] * each_w, 0.0)
