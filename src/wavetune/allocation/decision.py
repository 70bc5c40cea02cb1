"""A decision with one choice per client, and its delay with the best powers on given owners of the subchannels.

Shape suffixes: K clients, M subchannels; the options of a decision have C = 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wavetune.allocation.delay import downlink_rate_bit_per_s_K, transfer_s, uplink_rate_bit_per_s_K
from wavetune.allocation.options import Options
from wavetune.allocation.plan import Plan, make_plan
from wavetune.allocation.power import allocate_power
from wavetune.allocation.problem import IntArray, Problem, RadioBand
from wavetune.allocation.server_shares import optimal_shares
from wavetune.units import Array

if TYPE_CHECKING:
    from wavetune.allocation.band import Track
    from wavetune.allocation.water_filling import Race


@dataclass(frozen=True, eq=False)
class Decision:
    """One choice per client, with owners of both bands and, where it is shared, shares of the server."""

    options: Options
    main_owner_M: IntArray
    fed_owner_M: IntArray
    share_K: Array | None
    step_s: float
    fed_s: float
    delay_s: float


class Cell:
    """A problem's bands with their tables; everything that a decision's delay depends on besides its options."""

    def __init__(self, problem: Problem) -> None:
        from wavetune.allocation.band import Track

        self.problem = problem
        self.main = Track(problem.main, problem.tx_power_max_w_K)
        self.fed = Track(problem.fed, problem.tx_power_max_w_K)

    def decide(
        self, options: Options, main_owner_M: IntArray, fed_owner_M: IntArray, share_K: Array | None = None
    ) -> Decision:
        """The decision with the best powers on given owners; shares start from the given ones."""
        problem = self.problem
        fed_s = self.fed_s(options, fed_owner_M)
        step_s, share_K = self._step(options, main_owner_M, share_K)
        delay_s = options.rounds * (problem.local_steps * step_s + fed_s)
        return Decision(options, main_owner_M, fed_owner_M, share_K, step_s, fed_s, delay_s)

    def main_race(self, options: Options, main_owner_M: IntArray, share_K: Array | None) -> Race:
        """Race of the activations; with shares, what follows them counts as if it came before."""
        ready_s_K = options.ready_s_KC[:, 0]
        if share_K is not None:
            served_s_K = transfer_s(options.work_s_KC[:, 0], share_K)
            ready_s_K = ready_s_K + served_s_K + self.back_s_K(options, main_owner_M)
        return self.main.race(ready_s_K, options.up_bits_KC[:, 0])

    def fed_race(self, options: Options) -> Race:
        """Race of the adapters."""
        return self.fed.race(np.zeros(options.num_clients), options.fed_bits_KC[:, 0])

    def back_s_K(self, options: Options, main_owner_M: IntArray) -> Array:
        """From the server's end to the end of each client's backward pass (s)."""
        return self._down_s(self.problem.main, options.down_bits_KC[:, 0], main_owner_M) + options.back_s_KC[:, 0]

    def band_s(self, track: Track, race: Race, owner_M: IntArray) -> float:
        """Least delay of a race for given owners (s)."""
        from wavetune.allocation.water_filling import owners_delay

        return owners_delay(race, owner_M) if np.any(race.need_K > 0) else float(np.max(race.ready_K))

    def fed_s(self, options: Options, fed_owner_M: IntArray) -> float:
        """Seconds of the adapter exchange with the best powers on given owners."""
        up_s = self.band_s(self.fed, self.fed_race(options), fed_owner_M)
        return up_s + float(np.max(self._down_s(self.problem.fed, options.fed_bits_KC[:, 0], fed_owner_M)))

    def plan_of(self, decision: Decision) -> Plan:
        """The decision as a plan."""
        problem, options, caps_w_K = self.problem, decision.options, self.problem.tx_power_max_w_K
        race = self.main_race(options, decision.main_owner_M, decision.share_K)
        main, _ = allocate_power(problem.main, decision.main_owner_M, race.ready_K, options.up_bits_KC[:, 0], caps_w_K)
        at_once_K = np.zeros(problem.num_clients)
        fed, _ = allocate_power(problem.fed, decision.fed_owner_M, at_once_K, options.fed_bits_KC[:, 0], caps_w_K)
        return make_plan(problem, options.cut_KC[:, 0], options.rank_K, main, fed)

    def balanced(self, decision: Decision) -> Decision:
        """The decision with powers and shares of the server chosen together, for its owners."""
        from wavetune.allocation.pipelines import balance

        options, owner_M = decision.options, decision.main_owner_M
        if decision.share_K is None or not np.isfinite(decision.step_s):
            return decision
        race, work_s_K = self._pipelines(options, owner_M), options.work_s_KC[:, 0]
        air_s_K = balance(race, work_s_K, owner_M, decision.step_s)
        share_K = optimal_shares(work_s_K, race.ready_K + air_s_K)
        better = self.decide(options, owner_M, decision.fed_owner_M, share_K)
        return min(better, decision, key=lambda d: d.delay_s)

    def can_beat(self, options: Options, decision: Decision) -> bool:
        """Whether other options might be faster than a decision's on its owners, with whatever shares."""
        from wavetune.allocation.pipelines import can_end

        if decision.share_K is None:
            return True
        fed_s = self.fed_s(options, decision.fed_owner_M)
        step_s = (decision.delay_s * (1 - 1e-6) / options.rounds - fed_s) / self.problem.local_steps
        race = self._pipelines(options, decision.main_owner_M)
        return can_end(race, options.work_s_KC[:, 0], decision.main_owner_M, step_s)

    def _pipelines(self, options: Options, main_owner_M: IntArray) -> Race:
        """Race of the activations where all but airtime and service counts as if it came before."""
        ready_s_K = options.ready_s_KC[:, 0] + self.back_s_K(options, main_owner_M)
        return self.main.race(ready_s_K, options.up_bits_KC[:, 0])

    def _step(self, options: Options, main_owner_M: IntArray, share_K: Array | None) -> tuple[float, Array | None]:
        back_s_K, work_s_K = self.back_s_K(options, main_owner_M), options.work_s_KC[:, 0]
        if not self.problem.share_server:
            up_s = self.band_s(self.main, self.main_race(options, main_owner_M, None), main_owner_M)
            up_s = max(up_s, float(np.max(options.ready_s_KC)))
            return up_s + float(np.sum(work_s_K)) + float(np.max(back_s_K)), None
        air_s_K = self._air_s_K(options, main_owner_M, share_K)
        other_s_K = options.ready_s_KC[:, 0] + air_s_K + back_s_K
        share_K = optimal_shares(work_s_K, other_s_K)
        return float(np.max(other_s_K + transfer_s(work_s_K, share_K))), share_K

    def _air_s_K(self, options: Options, main_owner_M: IntArray, share_K: Array | None) -> Array:
        """Airtime of the activations with the powers that are best for given shares, or for serving together (s)."""
        from wavetune.allocation.water_filling import optimal_power

        race, bits_K = self.main_race(options, main_owner_M, share_K), options.up_bits_KC[:, 0]
        _, power_w_M, _ = optimal_power(race, main_owner_M)
        return transfer_s(bits_K, uplink_rate_bit_per_s_K(self.problem.main, main_owner_M, power_w_M))

    def _down_s(self, band: RadioBand, bits_K: Array, owner_M: IntArray) -> Array:
        if not self.problem.price_downlink:
            return np.zeros(len(bits_K))
        return transfer_s(bits_K, downlink_rate_bit_per_s_K(band, owner_M))
