"""Delay and energy of a round: the one objective behind planner, simulator and report.

A local step waits for the slowest client twice (activations up, gradients down) and computes all batches at the server
in between; a round is its local steps plus the slowest adapter upload. Where clients hold shares of the server, each is
served as soon as its own activations arrive, and a step waits once, for the slowest of these pipelines.
Shape suffixes: I steps, K clients, M subchannels.
Source: SflLLM's latency model (arXiv 2504.14667) as reconstructed from its abstract and lineage (EPSL, 2303.15991); the
shares are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from wavetune.allocation.counting import Strongest
from wavetune.allocation.problem import Draw, IntArray, Problem, RadioBand
from wavetune.costs.layer_costs import LayerCosts
from wavetune.units import Array
from wavetune.wireless.energy import compute_energy_j, radio_energy_j
from wavetune.wireless.rates import client_rates, subchannel_rate_bit_per_s

_RADIATED = Draw()


@dataclass(frozen=True)
class RoundLoad:
    """What one round asks of clients, links and server; one row per local step.

    Args:
        client_forward_flop_IK, client_backward_flop_IK: compute of each client.
        uplink_bits_IK, downlink_bits_IK: what crosses the cut, each way.
        server_forward_flop_IK, server_backward_flop_IK: compute of the server on each client's batch.
        fed_upload_bits_K, fed_download_bits_K: adapters, once a round.
        repeat: how often the rows are repeated (one row stands for I equal steps).
    """

    client_forward_flop_IK: Array
    uplink_bits_IK: Array
    server_forward_flop_IK: Array
    server_backward_flop_IK: Array
    downlink_bits_IK: Array
    client_backward_flop_IK: Array
    fed_upload_bits_K: Array
    fed_download_bits_K: Array
    repeat: int = 1

    @property
    def server_forward_flop_I(self) -> Array:
        """Forward compute of the server over all clients' batches."""
        return np.sum(self.server_forward_flop_IK, axis=-1)

    @property
    def server_backward_flop_I(self) -> Array:
        """Backward compute of the server over all clients' batches."""
        return np.sum(self.server_backward_flop_IK, axis=-1)


@dataclass(frozen=True)
class Speeds:
    """How fast each part works; an infinite rate is not priced.

    `server_share_K` is each client's share of the server, or None where the server works on all batches together.
    """

    client_flop_per_s_K: Array
    server_flop_per_s: float
    uplink_bit_per_s_K: Array
    downlink_bit_per_s_K: Array
    fed_up_bit_per_s_K: Array
    fed_down_bit_per_s_K: Array
    server_share_K: Array | None = None


@dataclass(frozen=True)
class Phases:
    """Seconds of every phase: a row per local step, the rows repeated `repeat` times a round.

    The server's phases are [I], or [I, K] where every client has its own share of the server.
    """

    client_forward_s: Array
    uplink_s: Array
    server_forward_s: Array
    server_backward_s: Array
    downlink_s: Array
    client_backward_s: Array
    fed_upload_s: Array
    fed_download_s: Array
    repeat: int = 1

    @cached_property
    def step_s(self) -> Array:
        """Delay of each local step, [I]."""
        if self.pipelined:
            return np.max(self.pipeline_s, axis=1, initial=0.0)
        up_s = np.max(self.client_forward_s + self.uplink_s, axis=1, initial=0.0)
        down_s = np.max(self.downlink_s + self.client_backward_s, axis=1, initial=0.0)
        return up_s + self.server_forward_s + self.server_backward_s + down_s

    @property
    def pipelined(self) -> bool:
        """Whether each client is served on its own, as soon as its activations arrive."""
        return self.server_forward_s.ndim == 2

    @property
    def pipeline_s(self) -> Array:
        """From the start of a step to each client's last backward pass where it is served on its own, [I, K]."""
        up_s, down_s = self.client_forward_s + self.uplink_s, self.downlink_s + self.client_backward_s
        return up_s + self.server_forward_s + self.server_backward_s + down_s

    @property
    def round_s(self) -> float:
        """Delay of the round."""
        return round_delay(self, self.repeat)

    def straggler(self) -> tuple[int, str]:
        """Client with the most seconds on the critical path of the round, and the phase it spends most of them in.

        Where power is planned, clients that could be faster finish with the last one; of such equals the one that
        computes longest counts.
        """
        critical = np.zeros((6, len(self.fed_upload_s)))
        steps = np.arange(len(self.step_s))
        waits = ((0, self.client_forward_s, 1, self.uplink_s), (3, self.client_backward_s, 2, self.downlink_s))
        for row, compute, transfer_row, transfer in waits:
            total = self.pipeline_s if self.pipelined else compute + transfer
            tied = total >= np.max(total, axis=1, keepdims=True) * (1 - 1e-9)
            last = np.argmax(np.where(tied, compute, -1.0), axis=1)
            np.add.at(critical[row], last, compute[steps, last] * self.repeat)
            np.add.at(critical[transfer_row], last, transfer[steps, last] * self.repeat)
        for row, fed_s in ((4, self.fed_upload_s), (5, self.fed_download_s)):
            critical[row, np.argmax(fed_s)] += np.max(fed_s)
        client = int(np.argmax(critical.sum(axis=0)))
        return client, _CLIENT_PHASES[int(np.argmax(critical[:, client]))]


_CLIENT_PHASES = ("client_forward", "uplink", "downlink", "client_backward", "fed_upload", "fed_download")


@dataclass(frozen=True)
class Energy:
    """Joules of one round: computing, what the amplifiers draw, and what clients draw besides whatever is planned."""

    client_compute_j_K: Array
    client_radio_j_K: Array
    server_compute_j: float
    server_radio_j: float
    client_standby_j_K: Array | None = None

    @property
    def total_j(self) -> float:
        """Computing and amplifiers, which plans weigh and budgets limit."""
        return (
            float(np.sum(self.client_compute_j_K + self.client_radio_j_K)) + self.server_compute_j + self.server_radio_j
        )


def round_phases(load: RoundLoad, speeds: Speeds) -> Phases:
    """Seconds of every phase of a round.

    Model: work / speed; 0 bits take 0 s whatever the rate. The server takes all batches together or, where its speed is
    shared, each client's with that client's share.
    """
    server_forward_s, server_backward_s = (
        np.sum(flop_IK, axis=1) / speeds.server_flop_per_s
        if speeds.server_share_K is None
        else transfer_s(flop_IK, speeds.server_share_K * speeds.server_flop_per_s)
        for flop_IK in (load.server_forward_flop_IK, load.server_backward_flop_IK)
    )
    return Phases(
        client_forward_s=load.client_forward_flop_IK / speeds.client_flop_per_s_K,
        uplink_s=transfer_s(load.uplink_bits_IK, speeds.uplink_bit_per_s_K),
        server_forward_s=server_forward_s,
        server_backward_s=server_backward_s,
        downlink_s=transfer_s(load.downlink_bits_IK, speeds.downlink_bit_per_s_K),
        client_backward_s=load.client_backward_flop_IK / speeds.client_flop_per_s_K,
        fed_upload_s=transfer_s(load.fed_upload_bits_K, speeds.fed_up_bit_per_s_K),
        fed_download_s=transfer_s(load.fed_download_bits_K, speeds.fed_down_bit_per_s_K),
        repeat=load.repeat,
    )


def transfer_s(bits: Array, rate_bit_per_s: Array) -> Array:
    """Airtime of a transfer: 0 for 0 bits, infinite for bits at rate 0.

    >>> transfer_s(np.array([0.0, 8.0, 8.0]), np.array([0.0, 4.0, 0.0])).tolist()
    [0.0, 2.0, inf]
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(bits > 0, np.where(rate_bit_per_s > 0, bits / rate_bit_per_s, np.inf), 0.0)


def round_delay(phases: Phases, repeat: int) -> float:
    """Delay of one round (s).

    Model: repeat * sum_i [max_k(forward + uplink) + server + max_k(downlink + backward)] + max_k fed up + max_k fed
    down; with shares of the server, [...] is max_k(forward + uplink + own server + downlink + backward).
    """
    fed_s = np.max(phases.fed_upload_s, initial=0.0) + np.max(phases.fed_download_s, initial=0.0)
    return float(repeat * np.sum(phases.step_s) + fed_s)


def round_energy(
    load: RoundLoad,
    phases: Phases,
    tx_power_main_w_K: Array,
    tx_power_fed_w_K: Array,
    client_energy_j_per_flop_K: Array | float,
    server_energy_j_per_flop: float,
    downlink_power_main_w_K: Array | float = 0.0,
    downlink_power_fed_w_K: Array | float = 0.0,
    draw: Draw = _RADIATED,
    beside_s: float = 0.0,
) -> Energy:
    """Energy of one round.

    Model: FLOP times energy per FLOP, and transmit power over the amplifier's efficiency times airtime; besides,
    circuit power while a client sends, receive power while it receives, idle power all through the round.
    Ignores: what else the base station draws.

    Args:
        load, phases: what the round asks, and the seconds of its phases.
        tx_power_main_w_K, tx_power_fed_w_K: radiated by each client in both bands.
        client_energy_j_per_flop_K, server_energy_j_per_flop: of computing.
        downlink_power_main_w_K, downlink_power_fed_w_K: radiated by the server to each client.
        draw: what devices and amplifiers draw; by default what is radiated.
        beside_s: of the round, beside these phases.
    """
    client_flop_K = np.sum(load.client_forward_flop_IK + load.client_backward_flop_IK, axis=0) * load.repeat
    server_flop = float(np.sum(load.server_forward_flop_IK + load.server_backward_flop_IK)) * load.repeat
    up_s_K, down_s_K = (np.sum(x, axis=0) * load.repeat for x in (phases.uplink_s, phases.downlink_s))
    radiated_j_K = radio_energy_j(tx_power_main_w_K, up_s_K) + radio_energy_j(tx_power_fed_w_K, phases.fed_upload_s)
    server_radiated_j = float(
        np.sum(radio_energy_j(downlink_power_main_w_K, down_s_K))
        + np.sum(radio_energy_j(downlink_power_fed_w_K, phases.fed_download_s))
    )
    return Energy(
        client_compute_j_K=compute_energy_j(client_flop_K, client_energy_j_per_flop_K),
        client_radio_j_K=radiated_j_K / draw.amplifier_efficiency,
        server_compute_j=server_flop * server_energy_j_per_flop,
        server_radio_j=server_radiated_j / draw.server_amplifier_efficiency,
        client_standby_j_K=radio_energy_j(draw.circuit_power_w, up_s_K + phases.fed_upload_s)
        + radio_energy_j(draw.receive_power_w, down_s_K + phases.fed_download_s)
        + radio_energy_j(draw.idle_power_w, phases.round_s + beside_s),
    )


def load_of(problem: Problem, cut_K: IntArray | int, rank_K: IntArray | int) -> RoundLoad:
    """What a round asks under given cuts and ranks, per client or the same for all.

    Model: a client runs the layers before its cut, the server those behind it for every client's batch; LoRA FLOPs and
    adapter bits grow in proportion to the rank. The server's adapters have the largest rank among the clients. One row
    stands for the `local_steps` equal steps. Of several decisions, [..., K], its arrays are [I, ..., K].
    """
    costs, batch = problem.costs, problem.batch_size if problem.batch_size_K is None else problem.batch_size_K
    cut_K, rank_K, _ = np.broadcast_arrays(cut_K, rank_K, problem.client_flop_per_s_K)
    forward_K, server_forward_K = _split(costs, "forward_flop", cut_K, rank_K)
    backward_K, server_backward_K = _split(costs, "backward_flop", cut_K, rank_K)
    back_L = costs.activation_bits_L if costs.gradient_bits_L is None else costs.gradient_bits_L
    adapter_bits_K = rank_K * costs.before["lora_bits_per_rank_L"][cut_K]
    if costs.adapter_bits_L is not None:
        adapter_bits_K = adapter_bits_K + costs.before["adapter_bits_L"][cut_K]
    return RoundLoad(
        client_forward_flop_IK=batch * forward_K[None],
        uplink_bits_IK=(batch * costs.activation_bits_L[cut_K - 1])[None],
        server_forward_flop_IK=batch * server_forward_K[None],
        server_backward_flop_IK=batch * server_backward_K[None],
        downlink_bits_IK=(batch * back_L[cut_K - 1])[None],
        client_backward_flop_IK=batch * backward_K[None],
        fed_upload_bits_K=adapter_bits_K,
        fed_download_bits_K=adapter_bits_K * costs.download_share,
        repeat=problem.local_steps,
    )


def _split(costs: LayerCosts, what: str, cut_K: IntArray, rank_K: IntArray) -> tuple[Array, Array]:
    """Cost before each client's cut at its own rank, and behind it at the largest."""
    base, per_rank, layers_K = f"{what}_L", f"lora_{what}_per_rank_L", costs.num_layers - cut_K
    behind_K = (
        costs.behind[base][layers_K]
        + np.max(rank_K, axis=-1, keepdims=True, initial=0) * costs.behind[per_rank][layers_K]
    )
    return costs.before[base][cut_K] + rank_K * costs.before[per_rank][cut_K], behind_K


def uplink_rate_bit_per_s_K(band: RadioBand, owner_M: IntArray, power_w_M: Array) -> Array:
    """Rate of each client on the subchannels it owns (bit/s)."""
    return client_rates(
        owner_M, power_w_M, band.gain_KM, band.noise_w, band.subchannel_hz, band.interference_w_M, band.rate
    )


def downlink_rate_bit_per_s_K(band: RadioBand, owner_M: IntArray) -> Array:
    """Rate of the way back on the subchannels each client owns, the server's power spread evenly over all (bit/s)."""
    if band.downlink_gain_KM is None:
        return np.full(len(band.gain_KM), np.inf)
    power_w_M = np.full(band.num_subchannels, band.downlink_power_w / band.num_subchannels)
    gain_KM, interference = band.downlink_gain_KM, band.downlink_interference_w
    return client_rates(
        owner_M, power_w_M, gain_KM, band.downlink_noise_w, band.subchannel_hz, interference, band.rate, uplink=False
    )


def optimal_shares(work_s_K: Array, other_s_K: Array) -> Array:
    """Shares of the server, [K], at least 0 and 1 together; equal where no client has work or one never ends.

    Problem: min over shares that add up to 1 of max_k(other_k + work_k / share_k), with `work` the seconds that the
    whole server would take for client k's batch and `other` what the client's pipeline takes besides.
    Solution: all clients with work end together at T with share_k = work_k / (T - other_k), which add up to 1 at one T.
    Their sum is convex and decreasing in T, so that Newton's steps from the left never overshoot. T is counted from the
    largest of the others, beside which the work may be too small to be told.
    Source: ours; the same argument as for min-max bandwidth in FDMA (arXiv 1911.02417).

    >>> optimal_shares(np.array([1.0, 1.0]), np.array([0.0, 1.5])).round(6).tolist()
    [0.333333, 0.666667]
    """
    works = work_s_K > 0
    if not np.any(works) or not np.all(np.isfinite(work_s_K + other_s_K)):
        return np.full(len(work_s_K), 1.0 / len(work_s_K))
    work_s, ahead_s = work_s_K[works], np.max(other_s_K[works]) - other_s_K[works]
    later_s = float(np.max(work_s - ahead_s))
    for _ in range(100):
        share = work_s / (ahead_s + later_s)
        step_s = (np.sum(share) - 1.0) / np.sum(share / (ahead_s + later_s))
        if not later_s + step_s > later_s:
            break
        later_s += float(step_s)
    share_K = np.zeros(len(work_s_K))
    share_K[works] = np.maximum(work_s / (ahead_s + later_s), 1e-300)
    return share_K / np.sum(share_K)


def downlink_rate_bit_per_s_KM(band: RadioBand) -> Array:
    """Rate of every subchannel to every client (bit/s), infinite where the downlink is not priced."""
    if band.downlink_gain_KM is None:
        return np.full(band.gain_KM.shape, np.inf)
    power_w = band.downlink_power_w / band.num_subchannels
    return subchannel_rate_bit_per_s(
        power_w,
        band.downlink_gain_KM,
        band.downlink_noise_w,
        band.subchannel_hz,
        band.downlink_interference_w,
        band.rate,
        uplink=False,
    )


def least_downlink_s(band: RadioBand, bits_K: Array, after_s_K: Array, down: Strongest | None = None) -> float:
    """Lower bound on max_k(bits / downlink rate + after) over all owners of the subchannels (s); see below."""
    return float(least_downlinks_s(band, bits_K, after_s_K, down))


def least_downlinks_s(band: RadioBand, bits_PK: Array, after_s_PK: Array, down: Strongest | None = None) -> Array:
    """Lower bounds on max_k(bits / downlink rate + after) over all owners of the subchannels (s), [P].

    Model: at a delay, each client needs at least so many subchannels as its strongest ones would do; together these
    must not exceed M. The server's power is spread evenly over all subchannels.

    Args:
        band: downlink gains and power.
        bits_PK: what each client receives.
        after_s_PK: what it does afterwards (s).
        down: the band's rates to clients on their strongest subchannels, where they are known already.
    """
    least_s: Array = np.max(after_s_PK, axis=-1)
    if band.downlink_gain_KM is None:
        return least_s
    down = down or Strongest.sums(downlink_rate_bit_per_s_KM(band))
    return np.maximum(least_s, down.least_common_s(after_s_PK, bits_PK, 1, band.num_subchannels) * (1 - 1e-9))
