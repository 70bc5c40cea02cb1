"""Devices that are lost for good: from some round on nothing reaches them, around any other channel."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Lt

from wavetune.seeds import stream
from wavetune.units import Array
from wavetune.wireless.channels.block import Block
from wavetune.wireless.channels.channel_model import Cell, ChannelModel
from wavetune.wireless.movement import Ring


@dataclass(frozen=True)
class LostDevices(ChannelModel):
    """A share of the devices, at least one and never all, whose gains are 0 from round `from_round` (from 0) on.

    Which ones is drawn by the seed, alike in both bands; whom no link reaches sits out. Until then, and of all others,
    gains are those of `channel`. A lone device stays.
    """

    share: Annotated[float, Gt(0), Lt(1)] = 0.3
    from_round: Annotated[int, Ge(0)] = 0
    channel: ChannelModel = field(default_factory=Block)

    @property
    def decorrelation_m(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        """On whose way shadowing loses its memory."""
        return self.channel.decorrelation_m

    def lost(self, num_clients: int, seed: int) -> tuple[int, ...]:
        """Identities of those that are lost.

        >>> len(LostDevices(share=0.3).lost(5, seed=0)), LostDevices().lost(1, seed=0)
        (2, ())
        """
        count = min(max(1, round(self.share * num_clients)), num_clients - 1)
        return tuple(sorted(stream(seed, "lost devices").permutation(num_clients)[:count].tolist()))

    def gains(self, cell: Cell, seed: int, round_index: int) -> tuple[Array, Array]:
        """[K, M] gains, 0 for those that are lost."""
        gains = self.channel.gains(cell, seed, round_index)
        if round_index < self.from_round:
            return gains
        there_K = ~np.isin(np.asarray(cell.client_ids), self.lost(cell.num_clients, seed))
        uplink_KM, downlink_KM = (gain_KM * there_K[:, None] for gain_KM in gains)
        return uplink_KM, downlink_KM

    def require_rounds(self, rounds: int) -> None:
        """As of the channel around which they are lost."""
        self.channel.require_rounds(rounds)

    def paths_m(self, start_m_K2: Array, client_ids: Sequence[int], seed: int, rounds: int, ring: Ring) -> Array | None:
        """As of the channel around which they are lost."""
        return self.channel.paths_m(start_m_K2, client_ids, seed, rounds, ring)

    def inputs(self) -> Mapping[str, str]:
        """As of the channel around which they are lost."""
        return self.channel.inputs()
