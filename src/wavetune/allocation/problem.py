"""The planning problem as plain arrays: clients, server, layer costs and two uplink bands.

Shape suffixes: K clients, M subchannels of a band, L layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from wavetune.allocation.gains import log_and_inverse
from wavetune.costs.layer_costs import LayerCosts
from wavetune.errors import ConfigError
from wavetune.units import Array
from wavetune.wireless.rate_models import Envelope, Ladder, RateModel, Shannon

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class RadioBand:
    """One OFDMA band with its channel known: what the planner may hand out.

    Args:
        gain_KM: uplink power gain of client k on subchannel m, linear, at least 0.
        subchannel_hz: width of every subchannel (Hz).
        noise_psd_w_per_hz: noise density at the server (W/Hz).
        total_power_max_w: cap on the sum of all clients' powers in this band (W).
        interference_w_M: interference power per subchannel at the server (W); scalar 0 for none.
        downlink_gain_KM: gain of the way back; None where the downlink is not priced.
        downlink_power_w: the server's power, spread evenly over the subchannels (W).
        rate: what a subchannel carries, in both directions.
        downlink_noise_psd_w_per_hz: noise density at a client (W/Hz); None for that at the server.
        downlink_interference_w_KM: interference power at each client (W); None for that at the server.
    """

    gain_KM: Array
    subchannel_hz: float
    noise_psd_w_per_hz: float
    total_power_max_w: float
    interference_w_M: Array | float = 0.0
    downlink_gain_KM: Array | None = None
    downlink_power_w: float = 0.0
    rate: RateModel = field(default_factory=Shannon)
    downlink_noise_psd_w_per_hz: float | None = None
    downlink_interference_w_KM: Array | None = None

    @property
    def num_subchannels(self) -> int:
        """M, the number of subchannels."""
        return self.gain_KM.shape[1]

    @property
    def noise_w(self) -> float:
        """Noise power in one subchannel (W)."""
        return self.noise_psd_w_per_hz * self.subchannel_hz

    @property
    def downlink_noise_w(self) -> float:
        """Noise power in one subchannel at a client (W)."""
        own = self.downlink_noise_psd_w_per_hz
        return self.noise_w if own is None else own * self.subchannel_hz

    @property
    def downlink_interference_w(self) -> Array | float:
        """Interference power in the subchannels where clients receive (W)."""
        own_KM = self.downlink_interference_w_KM
        return self.interference_w_M if own_KM is None else own_KM

    @cached_property
    def snr_per_w_KM(self) -> Array:
        """Signal-to-noise ratio per watt sent, over the rate's gap: gain / (N0 B + interference) / gap, in 1/W."""
        return self.gain_KM / (self.noise_w + self.interference_w_M) / self.envelope.gap

    @cached_property
    def log_and_inverse_KM(self) -> tuple[Array, Array]:
        """Its binary logarithm and its inverse (W), as compiled functions take them."""
        return log_and_inverse(self.snr_per_w_KM)

    @property
    def envelope(self) -> Envelope:
        """What the uplink's rate never exceeds, and plans are found with."""
        return self.rate.envelope(self.subchannel_hz)

    @property
    def effective_hz(self) -> float:
        """Width of a subchannel of which the envelope's rate is Shannon's, up to its limit (Hz)."""
        return self.subchannel_hz * self.envelope.share

    @property
    def ladder(self) -> Ladder | None:
        """The rates worth sending at where the uplink's rate is below its envelope."""
        return self.rate.ladder(self.subchannel_hz)

    def envelope_bit_per_s(self, snr: Array) -> Array:
        """The envelope's rate at a ratio over its gap, as `snr_per_w_KM` gives it (bit/s)."""
        limit = self.effective_hz * self.envelope.most
        return np.minimum(self.effective_hz * np.log1p(snr) / np.log(2.0), limit)


@dataclass(frozen=True)
class Draw:
    """What amplifiers and devices draw.

    Args:
        amplifier_efficiency, server_amplifier_efficiency: radiated over drawn power of the clients and the server.
        circuit_power_w, receive_power_w, idle_power_w: of a client, besides: while it sends, while it receives, and all
            through a round (W).
    """

    amplifier_efficiency: float = 1.0
    server_amplifier_efficiency: float = 1.0
    circuit_power_w: float = 0.0
    receive_power_w: float = 0.0
    idle_power_w: float = 0.0


@dataclass(frozen=True)
class Problem:
    """Who gets which subchannel and power, where to cut, which rank: everything the decision depends on.

    Args:
        local_steps: I, local steps of a round.
        batch_size: b, samples per step and client, the most where they differ.
        rounds_to_target: rank -> E(r), the rounds needed to reach the target loss; its keys are the allowed ranks.
        cuts: allowed cuts; cut l leaves the first l layers on the client.
        costs: the arrays over layers.
        server_flop_per_s: speed of the main server, shared by all clients.
        client_flop_per_s_K: speeds of the clients.
        num_samples_K: weights in averaging; no effect on the delay.
        tx_power_max_w_K: cap on a client's power in each band separately (W).
        memory_bytes_K: memory of the clients; infinite where unlimited.
        main: band of the activations.
        fed: band of the adapter upload.
        price_downlink: whether the gradients' and adapters' way back takes time (the paper leaves it out).
        client_energy_j_per_flop_K: compute energy of the clients (J/FLOP); None for 0.
        server_energy_j_per_flop: compute energy of the server (J/FLOP).
        draw: what amplifiers and devices draw.
        share_server: whether each client gets a share of the server and is served as soon as its own activations
            arrive, instead of all together after the last.
        cut_per_client: whether every client may get a cut of its own.
        rank_slack: what share of the delay may be given up to raise single clients' ranks; None for one common rank.
        fed_min_rate_bit_per_s: an adapter upload below this rate is lost, [K] or one for all; who saves energy by
            sending slowly must not fall below it.
        batch_size_K: samples per step of each client; None for b.
    """

    local_steps: int
    batch_size: int
    rounds_to_target: Mapping[int, float]
    cuts: tuple[int, ...]
    costs: LayerCosts
    server_flop_per_s: float
    client_flop_per_s_K: Array
    num_samples_K: Array
    tx_power_max_w_K: Array
    memory_bytes_K: Array
    main: RadioBand
    fed: RadioBand
    price_downlink: bool = False
    client_energy_j_per_flop_K: Array | None = None
    server_energy_j_per_flop: float = 0.0
    draw: Draw = field(default_factory=Draw)
    share_server: bool = False
    cut_per_client: bool = False
    rank_slack: float | None = None
    fed_min_rate_bit_per_s: Array | float = 0.0
    batch_size_K: Array | None = None

    @property
    def num_clients(self) -> int:
        """K, the number of clients."""
        return len(self.client_flop_per_s_K)

    @property
    def ranks(self) -> tuple[int, ...]:
        """The allowed ranks, ascending."""
        return tuple(sorted(self.rounds_to_target))

    @property
    def clients_may_differ(self) -> bool:
        """Whether clients may get cuts, ranks or shares of the server of their own, which takes a long search."""
        return self.cut_per_client or self.share_server or self.rank_slack is not None

    def restrict(self, cuts: Sequence[int] | None = None, ranks: Sequence[int] | None = None) -> Problem:
        """Keep only some of the allowed cuts and ranks.

        Raises:
            ConfigError: a cut or rank is not among the allowed ones, or none is left.
        """
        kept_cuts = self.cuts if cuts is None else tuple(cuts)
        kept_ranks = self.ranks if ranks is None else tuple(ranks)
        for name, kept, allowed in (("cuts", kept_cuts, self.cuts), ("ranks", kept_ranks, self.ranks)):
            if not kept or not set(kept) <= set(allowed):
                raise ConfigError(f"{name}={list(kept)} must be one or more of the allowed {list(allowed)}")
        return replace(self, cuts=kept_cuts, rounds_to_target={r: self.rounds_to_target[r] for r in kept_ranks})
