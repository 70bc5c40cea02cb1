"""Lower bounds on energy: what no plan can go below, whoever owns which subchannel.

By a time at which a band's clients are done their rates are fixed. With watts counted times the seconds that they are
spent for, what a client pays for its cheapest way is what it pays in `dual_bound`: for any prices w of subchannels,

    sum_k e_k >= sum_k min over sets S of [e_k(S) + w(S)] - sum w,

as the sets are disjoint. Prices are moved by what proves delays there, and hold at any time and for any cut and rank.
Energy falls with time, so that over an interval of times its value at the end and the delay at the start bound the cost
from below; intervals are halved until their bounds are close. Of the server's sending only that on the subchannels on
which each client hears it best is counted.
Shape suffixes: K clients, M subchannels.
"""

from __future__ import annotations

import numpy as np

from wavetune.allocation.band import with_cap_tolerance
from wavetune.allocation.delay import RoundLoad, downlink_rate_bit_per_s_KM, load_of, transfer_s
from wavetune.allocation.dual_bound import excess, raise_bound, uniform_prices
from wavetune.allocation.energy_power import around_activations, in_joules
from wavetune.allocation.energy_search import computing
from wavetune.allocation.feasibility import check_feasible
from wavetune.allocation.intervals import least_over_intervals
from wavetune.allocation.plan import Plan, rounds_of
from wavetune.allocation.power import band_problem
from wavetune.allocation.prices import Prices
from wavetune.allocation.problem import IntArray, Problem
from wavetune.allocation.water_filling import BandProblem, energy_until
from wavetune.units import Array

_ITERATIONS, _SAFE = 100, 1 - 1e-9


def least_energy_j(problem: Problem, like: Plan, delay_s: float) -> float:
    """No plan with one cut and rank for all that takes at most `delay_s` to the target spends less (J); inf if none is.

    Args:
        problem: bands, clients and costs.
        like: a plan, whose owners and times the prices of the bound suit.
        delay_s: limit on the delay to the target loss.
    """
    arrive_s = float(np.max(like.phases.uplink_s[0] + around_activations(like.phases)[0]))
    fed_s = float(np.max(like.phases.fed_upload_s))
    least_j, bands = np.inf, (BandEnergy(like.main.owner_M, arrive_s), BandEnergy(like.fed.owner_M, fed_s))
    pairs = [(cut, rank, *computing(problem, cut, rank)) for cut, rank in check_feasible(problem).pairs]
    own = (int(like.cut_K[0]), int(like.rank_K[0]))

    def fixed_j(pair: tuple[int, int, float, Array, float]) -> float:
        return rounds_of(problem, pair[1]) * (float(pair[3].sum()) + pair[4])

    for pair in sorted(pairs, key=lambda pair: (pair[:2] != own, fixed_j(pair))):
        rounds = rounds_of(problem, pair[1])
        if fixed_j(pair) < least_j and rounds * pair[2] <= delay_s:
            enough_j = (least_j - fixed_j(pair)) / rounds
            radio_j = _least_radio_j(problem, pair[0], pair[1], delay_s / rounds, enough_j, bands)
            least_j = min(least_j, fixed_j(pair) + rounds * radio_j)
    return least_j


def _least_radio_j(
    problem: Problem, cut: int, rank: int, round_s: float, enough_j: float, bands: tuple[BandEnergy, BandEnergy]
) -> float:
    """Least energy of sending in a round of at most `round_s` at one cut and rank, up to what is enough (J)."""
    load, steps, cap_w_K = load_of(problem, cut, rank), problem.local_steps, problem.tx_power_max_w_K
    ready_s_K = load.client_forward_flop_IK[0] / problem.client_flop_per_s_K
    # What is left for the steps, until their activations have arrived, and for the adapters.
    left_s = round_s - computing(problem, cut, rank)[0] + steps * float(np.max(ready_s_K))
    if problem.share_server:  # A step ends with a client's backward pass; its share of the server is left out.
        ready_s_K = ready_s_K + load.client_backward_flop_IK[0] / problem.client_flop_per_s_K
        left_s = round_s
    main = with_cap_tolerance(band_problem(problem.main, ready_s_K, load.uplink_bits_IK[0], cap_w_K))
    fed = with_cap_tolerance(band_problem(problem.fed, 0.0 * ready_s_K, load.fed_upload_bits_K, cap_w_K))

    def bound_j(soonest_s: float, latest_s: float) -> float:
        return steps * bands[0].least_j(main, latest_s) + bands[1].least_j(fed, left_s - steps * soonest_s)

    back_j, efficiency = _least_back_j(problem, load), problem.draw.amplifier_efficiency
    enough_j = (enough_j - back_j) * efficiency
    return back_j + least_over_intervals(bound_j, float(np.max(ready_s_K)), left_s / steps, enough_j) / efficiency


def _least_back_j(problem: Problem, load: RoundLoad) -> float:
    """What the server's sending in a round takes at least, with each client on its best subchannel alone (J)."""
    joules = 0.0
    for band, bits_K in (
        (problem.main, problem.local_steps * load.downlink_bits_IK[0]),
        (problem.fed, load.fed_download_bits_K),
    ):
        if problem.price_downlink:
            best_K = np.max(downlink_rate_bit_per_s_KM(band), axis=1)
            joules += band.downlink_power_w / band.num_subchannels * float(np.sum(transfer_s(bits_K, best_K)))
    return joules * _SAFE / problem.draw.server_amplifier_efficiency


class BandEnergy:
    """What a band's clients spend at least, by the time at which all are done.

    Prices are those of given owners at the time by which they are done and at the first time asked.
    """

    def __init__(self, owner_M: IntArray, owners_s: float) -> None:
        self.owner_M, self.owners_s = owner_M, owners_s
        self.prices: list[Prices] = []

    def least_j(self, problem: BandProblem, done_s: float) -> float:
        """Least energy of all if each is done by a time (J); infinite where one cannot be."""
        last_s = np.max(problem.ready_K[problem.need_K > 0], initial=-np.inf)
        if last_s == -np.inf:  # nobody sends
            return 0.0
        if not done_s > last_s:
            return np.inf
        if not self.prices:
            times_s = (time_s for time_s in (self.owners_s, done_s) if time_s > last_s)
            self.prices = [self._moved(self._priced(problem, time_s)) for time_s in times_s]
        priced, least_j = self._priced(problem, done_s), 0.0
        for prices in self.prices:
            over, _, _ = excess(priced, prices, 1.0)
            least_j = max(least_j, priced.total_w * (1 + over / float(prices.weight_M1[-1])) * _SAFE)
        return least_j

    def _priced(self, problem: BandProblem, done_s: float) -> BandProblem:
        """The problem in joules, of which there are as many as the owners spend or, where they cannot, as can be."""
        joules = in_joules(problem, done_s)
        known_j = float(np.sum(energy_until(problem, self.owner_M, 0.0 * problem.need_K, done_s)[0]))
        most_j = float(np.sum(joules.cap_w_K[problem.need_K > 0]))
        return joules._replace(total_w=known_j if 0 < known_j < np.inf else most_j)

    def _moved(self, priced: BandProblem) -> Prices:
        """Prices that prove the more, the nearer rates are that the joules of known owners cannot carry."""
        prices = uniform_prices(priced, self.owner_M, 0.5, 1.0)
        raise_bound(priced, prices, 0.5, 1.0, 0.05, 1e-5, _ITERATIONS)
        return prices
