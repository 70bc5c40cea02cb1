"""What a scheduler knows of the channel: gains of some rounds ago, estimated with an error."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge, Le

from wavetune.parts import Part
from wavetune.seeds import stream
from wavetune.units import Array, db_to_linear
from wavetune.wireless.validation import Checked


@dataclass(frozen=True)
class Knowledge(Checked, Part):
    """How old gains are when a round is planned, and how well they were measured.

    Round t is planned on the gains of round max(0, t - age_rounds), each off by a factor of its own that is normal in
    dB with the deviation `error_db`. What a round is charged follows the gains that it really has.

    Ignores: that errors of neighbouring subchannels and successive rounds are alike, and what measuring costs.
    """

    age_rounds: Annotated[int, Ge(0)] = 0
    error_db: Annotated[float, Ge(0), Le(60)] = 0.0

    @property
    def perfect(self) -> bool:
        """Whether a round is planned on the gains that it has."""
        return not self.age_rounds and not self.error_db

    def known_round(self, round_index: int) -> int:
        """The round whose gains are known when a round is planned."""
        return max(0, round_index - self.age_rounds)

    def estimated(self, gain_KM: Array, client_ids: Sequence[int], link: str, seed: int, round_index: int) -> Array:
        """[K, M] gains as they are estimated in a round; `link` names the band and direction.

        >>> Knowledge(error_db=3.0).estimated(np.zeros((1, 2)), [0], "main/uplink", 0, 0).tolist()
        [[0.0, 0.0]]
        """
        if not self.error_db:
            return gain_KM
        purpose, width = f"estimate/{link}", gain_KM.shape[1]
        rows: list[Array] = [stream(seed, purpose, round_index, k).standard_normal(width) for k in client_ids]
        return gain_KM * db_to_linear(self.error_db * np.array(rows, np.float64))
