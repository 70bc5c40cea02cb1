"""Block fading: constant over a round, drawn anew for the next, around path loss and shadowing that stay."""

from dataclasses import dataclass

from wavetune.seeds import stream
from wavetune.units import Array
from wavetune.wireless.channels.channel_model import Cell, ChannelModel


@dataclass(frozen=True)
class Block(ChannelModel):
    """Fading drawn anew every round, independent of the round before.

    Formula: gain_km = mean gain_k |h_km|^2.
    """

    def gains(self, cell: Cell, seed: int, round_index: int) -> tuple[Array, Array]:
        """[K, M] gains, those of client k and round t from the stream of (seed, band and direction, t, k)."""

        def gain_KM(direction: str) -> Array:
            purpose = f"fading/{cell.band}/{direction}"
            generators = [stream(seed, purpose, round_index, k) for k in cell.client_ids]
            fading_KM = cell.fading.power_gain(generators, cell.num_subchannels, cell.subchannel_hz, cell.is_los_K)
            return cell.mean_gain_K[:, None] * fading_KM

        uplink_KM = gain_KM("uplink")
        return uplink_KM, uplink_KM if cell.reciprocal else gain_KM("downlink")
