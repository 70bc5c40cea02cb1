"""Keep a plan's budgets of joules for what a round really asks, by sending more slowly where it asks too much.

Shape suffixes: I local steps, K clients, M subchannels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from wavetune.allocation.delay import RoundLoad
from wavetune.allocation.energy_power import Uplink
from wavetune.allocation.energy_terms import EnergyTerms
from wavetune.allocation.plan import Allocation, Plan, charge, speeds_of
from wavetune.allocation.power import band_problem
from wavetune.allocation.problem import BoolArray, Problem, RadioBand
from wavetune.units import Array

_SLOWEST = 1e-4


@np.errstate(over="ignore")
def within_budgets(problem: Problem, plan: Plan, load: RoundLoad, terms: EnergyTerms) -> Plan:
    """The plan with rates lowered, both bands alike, until every client and all together keep their budgets of a load.

    A client that would exceed its budget even at a ten-thousandth of its rates keeps them: its batch alone asks more
    than it has.

    Args:
        problem: bands and clients.
        plan: owners and powers for average batches.
        load: what the round asks.
        terms: the budgets.
    """
    if not terms.budgeted:
        return plan
    steps_bits_K = np.sum(load.uplink_bits_IK, axis=0) * load.repeat
    speeds = speeds_of(problem, plan.main, plan.fed)
    bands = (
        _Sender(problem, problem.main, plan.main, steps_bits_K, speeds.uplink_bit_per_s_K),
        _Sender(problem, problem.fed, plan.fed, load.fed_upload_bits_K, speeds.fed_up_bit_per_s_K),
    )
    _, asked = charge(problem, load, plan.main, plan.fed)
    server_j = asked.server_compute_j + asked.server_radio_j

    def joules_K(share_K: Array) -> Array:
        return asked.client_compute_j_K + bands[0].at(share_K).joules_K(0.0) + bands[1].at(share_K).joules_K(0.0)

    share_K = _largest(lambda s_K: joules_K(s_K) <= terms.budget_j, np.ones(problem.num_clients))

    def together_keep(share_1: Array) -> BoolArray:
        return np.array([float(np.sum(joules_K(share_1 * share_K))) + server_j <= terms.total_budget_j])

    share_K = share_K * _largest(together_keep, np.ones(1))
    if np.all(share_K == 1.0):
        return plan
    return replace(plan, main=bands[0].slow_down(share_K), fed=bands[1].slow_down(share_K))


def _largest(keeps: Callable[[Array], BoolArray], whole: Array) -> Array:
    """Largest share of the rates, entry by entry, that keeps a budget; 1 where none does."""
    low, high = np.full(len(whole), _SLOWEST), whole.copy()
    fits, hopeless = keeps(high), ~keeps(low)
    for _ in range(50):
        middle = 0.5 * (low + high)
        within = keeps(middle)
        low, high = np.where(within, middle, low), np.where(within, high, middle)
    return np.where(fits | hopeless, 1.0, low)


class _Sender:
    """A band with its owners, whose clients send their bits of a round until time 0, at a share of planned rates."""

    def __init__(self, problem: Problem, band: RadioBand, planned: Allocation, bits_K: Array, rate_K: Array) -> None:
        self.sends_K, self.planned, none_K = (bits_K > 0) & (rate_K > 0), planned, np.zeros(len(bits_K))
        bits_K = np.where(self.sends_K, bits_K, 0.0)
        self.airtime_s_K = np.where(self.sends_K, bits_K / np.where(rate_K > 0, rate_K, 1.0), 1.0)
        sent = band_problem(band, none_K, bits_K, problem.tx_power_max_w_K)
        self.uplink = Uplink(sent, planned.owner_M, none_K, 1, 0.0, problem.draw.amplifier_efficiency)

    def at(self, share_K: Array) -> Uplink:
        """The band at a share of the planned rates."""
        return replace(self.uplink, problem=self.uplink.problem._replace(ready_K=-self.airtime_s_K / share_K))

    def slow_down(self, share_K: Array) -> Allocation:
        """The allocation at a share of the planned rates; who keeps its rates keeps its powers."""
        owner_M, power_w_M = self.planned.owner_M, self.at(share_K).allocation(0.0).power_w_M
        slower_M = (owner_M >= 0) & ((share_K < 1.0) & self.sends_K)[owner_M]
        return Allocation(owner_M, np.where(slower_M, power_w_M, self.planned.power_w_M))
