"""The seam of channel models: from devices' mean gains to the gains of a round on every subchannel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from wavetune.guarded import Checks, pair_of
from wavetune.parts import Part
from wavetune.units import Array
from wavetune.wireless.fading import Fading
from wavetune.wireless.movement import Ring
from wavetune.wireless.rate_models import RateModel
from wavetune.wireless.validation import Checked


@dataclass(frozen=True, eq=False)
class Cell:
    """What a channel model is told of a band and of K devices in it.

    Args:
        band: `main` or `fed`.
        client_ids: [K] of the devices, in the order of the rows.
        num_clients: of the whole population.
        mean_gain_K: linear power gain with antennas, path loss and shadowing, and without fading.
        is_los_K: which devices the server sees.
        uplink_power_w_K: the most that each device sends with in the band, W.
        downlink_power_w: what the server sends with, W.
        noise_w: noise in a subchannel at the server, W.
        device_noise_w: noise in a subchannel at a device, W.
        rate: what a subchannel carries.
        fading: how gains vary around their mean.
        reciprocal: whether both ways fade alike.
    """

    band: str
    client_ids: Sequence[int]
    num_clients: int
    num_subchannels: int
    subchannel_hz: float
    carrier_hz: float
    mean_gain_K: Array
    is_los_K: NDArray[np.bool_]
    uplink_power_w_K: Array
    downlink_power_w: float
    noise_w: float
    device_noise_w: float
    rate: RateModel
    fading: Fading
    reciprocal: bool


def _check_gains(_: ChannelModel, found: Any, cell: Cell, *__: Any) -> str:
    shape = len(cell.client_ids), cell.num_subchannels
    pair = pair_of(found)
    fits = [np.shape(g) == shape and bool(np.all(np.isfinite(g) & (np.asarray(g) >= 0))) for g in pair or ()]
    return "" if fits == [True, True] else f"gains up and down, finite and not negative, {list(shape)} each"


class ChannelModel(Checked, Part):
    """Where the gains of a round come from."""

    checks: ClassVar[Checks] = {"gains": _check_gains}

    home = "wavetune.wireless.channels"
    decorrelation_m: float = math.inf  # on whose way shadowing loses its memory

    def gains(self, cell: Cell, seed: int, round_index: int) -> tuple[Array, Array]:
        """[K, M] linear power gains of the uplink and of the downlink in a round."""
        raise NotImplementedError

    def require_rounds(self, rounds: int) -> None:
        """ConfigError or DataError, saying what to do, where there is not a channel for so many rounds."""

    def paths_m(self, start_m_K2: Array, client_ids: Sequence[int], seed: int, rounds: int, ring: Ring) -> Array | None:
        """[K, rounds + 1, 2] positions of devices from their start on, m; None where devices stay."""
        return None

    def inputs(self) -> Mapping[str, str]:
        """Digests of the files that it reads, by name: a continued run must find the same."""
        return {}
