"""A channel that changes from round to round: fading with a memory, around devices that stay or move."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import numpy as np

from wavetune.errors import ConfigError
from wavetune.seeds import stream
from wavetune.units import Array
from wavetune.wireless.channels.channel_model import Cell, ChannelModel
from wavetune.wireless.fading import Complex, Fading
from wavetune.wireless.movement import Movement, Ring, Still
from wavetune.wireless.validation import NonNegative, Positive

SPEED_OF_LIGHT_M_PER_S = 299_792_458.0
MOST_ROUNDS = 2048  # whose correlations by Jakes make a matrix
_FLOOR = 1e-9  # of innovation: a slow channel is otherwise known from its past but for rounding


@dataclass(frozen=True)
class Moving(ChannelModel):
    """Fading that is correlated from round to round by the speed of the devices, which may move through the cell.

    Rounds are `round_s` apart, whatever they are charged. With the Doppler frequency f = v f_c / c and T = `round_s`,
    `jakes` correlates the amplitudes of rounds n apart by J0(2 pi f n T), scatterers all around the device, and `ar1`
    by J0(2 pi f T)^n, the first-order process with the same step. Each round is distributed as one drawn by itself, and
    at a correlation of 0 is that one.

    Devices that move take their path loss and line of sight with them: each keeps its draw, and is in sight where the
    probability at its distance is above it. Shadowing loses its memory by exp(-way / `decorrelation_m`),
    13 m by default as in street canyons (TR 38.901 Table 7.5-6, NLOS; 10 m in sight, 50 and 37 m above rooftops).

    Ignores: that devices have speeds of their own, and that fading and shadowing of neighbours are alike.

    Source: Clarke's model (Jakes, Microwave Mobile Communications, 1974, ch. 1); shadowing by Gudmundson (1991).
    """

    speed_m_per_s: NonNegative = 1.0
    round_s: Positive = 1.0
    process: Literal["jakes", "ar1"] = "jakes"
    movement: Movement = field(default_factory=Still)
    decorrelation_m: Positive = 13.0

    def gains(self, cell: Cell, seed: int, round_index: int) -> tuple[Array, Array]:
        """[K, M] gains, of the innovations of all rounds so far."""
        self.require_rounds(round_index + 1)
        weight_T = self.weights(cell.carrier_hz, round_index)

        def gain_KM(direction: str) -> Array:
            purpose = f"fading/{cell.band}/{direction}"
            rows = [
                np.tensordot(weight_T, _innovations(cell, purpose, seed, round_index, k), 1) for k in cell.client_ids
            ]
            return cell.mean_gain_K[:, None] * cell.fading.power_gain_of(np.array(rows, np.complex128), cell.is_los_K)

        uplink_KM = gain_KM("uplink")
        return uplink_KM, uplink_KM if cell.reciprocal else gain_KM("downlink")

    def weights(self, carrier_hz: float, round_index: int) -> Array:
        """[t + 1] weights of the rounds' independent draws in the amplitude of round t, their squares 1 together."""
        turn = 2 * math.pi * self.speed_m_per_s * carrier_hz / SPEED_OF_LIGHT_M_PER_S * self.round_s
        if self.process == "jakes":
            return _factor(turn, 1 << round_index.bit_length())[round_index, : round_index + 1]
        step = float(_bessel_j0(np.array([turn]))[0])
        weight_T = step ** np.arange(round_index, -1, -1, dtype=np.float64)
        weight_T[1:] *= math.sqrt(1 - step * step)
        return weight_T

    def require_rounds(self, rounds: int) -> None:
        """ConfigError where there are more rounds than Jakes' correlations are made for."""
        if self.process == "jakes" and rounds > MOST_ROUNDS:
            raise ConfigError(
                f"world.scenario.channel.process=jakes is for at most {MOST_ROUNDS} rounds and the run has {rounds}; "
                "set it to ar1"
            )

    def paths_m(self, start_m_K2: Array, client_ids: Sequence[int], seed: int, rounds: int, ring: Ring) -> Array | None:
        """[K, rounds + 1, 2] ways of the devices."""
        step_m = self.speed_m_per_s * self.round_s
        ways = [
            self.movement.path_m(start_m, step_m, rounds, ring, stream(seed, "movement", 0, k))
            for start_m, k in zip(start_m_K2, client_ids, strict=True)
        ]
        return np.array(ways)


def _bessel_j0(x: Array) -> Array:
    """Bessel's function of the first kind and order 0."""
    from scipy.special import j0  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType] # slow to import

    return np.asarray(j0(x), dtype=np.float64)


@lru_cache(maxsize=4)
def _factor(turn: float, rounds: int) -> Array:
    """Cholesky factor of J0(turn |s - t|), whose row t has the weights of rounds 0 to t."""
    correlation_T = _bessel_j0(turn * np.arange(rounds, dtype=np.float64))
    lag_TT = np.abs(np.subtract.outer(np.arange(rounds), np.arange(rounds)))
    matrix_TT = (correlation_T[lag_TT] + _FLOOR * np.eye(rounds)) / (1 + _FLOOR)
    return np.linalg.cholesky(matrix_TT).astype(np.float64)


def _innovations(cell: Cell, purpose: str, seed: int, round_index: int, client: int) -> Complex:
    """[t + 1, M] draws CN(0, 1) of the rounds up to t, each as if its round were drawn by itself."""
    key = cell.fading, cell.num_subchannels, cell.subchannel_hz, purpose, seed, client
    return np.array([_innovation(*key, t) for t in range(round_index + 1)], np.complex128)


@lru_cache(maxsize=2**17)
def _innovation(
    fading: Fading, num_subchannels: int, subchannel_hz: float, purpose: str, seed: int, client: int, round_index: int
) -> Complex:
    return fading.scattered([stream(seed, purpose, round_index, client)], num_subchannels, subchannel_hz)[0]
