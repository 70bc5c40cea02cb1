"""Samples that arrive as a stream: a client trains on what its small storage holds in a round.

A storage holds the `capacity` rows that arrived last, each once; before the first round it is filled with the first
rows of a random order. In a round each row of the client arrives with probability

    q = arrivals / n * (1 + cos(2 pi (t / drift_rounds - i / I))),

at most 1, in a random order, n the client's rows, i the row's domain (or class) of I and t the round; without drift the
bracket is 1. All is a function of (seed, client, round), so that a continued run needs no cursor. Source:
reconstruction of the storage of OSAFL (arXiv 2408.05886).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt

from wavetune.data.partition import Rows
from wavetune.parts import Part
from wavetune.seeds import stream
from wavetune.units import Array


@dataclass(frozen=True)
class Stream(Part):
    """A storage of `capacity` rows a client, to which `arrivals` come in a round on average.

    With `drift_rounds` the mix of domains among the arrivals turns over once in so many rounds.
    """

    capacity: Annotated[int, Ge(1)] = 100
    arrivals: Annotated[float, Ge(0)] = 10.0
    drift_rounds: Annotated[float, Gt(0)] | None = None

    def held(self, rows: Rows, domains: Sequence[str], seed: int, client: int, round_index: int) -> Rows:
        """Those of a client's rows that its storage holds in a round, ascending.

        Args:
            rows: all that the client ever gets.
            domains: of every row of the training set.
            seed: of the run.
            client: identity of the client.
            round_index: from 0, before which nothing arrives.
        """
        if not self.arrivals and self.capacity >= len(rows):
            return rows
        names = sorted(set(domains))
        places = {name: index / len(names) for index, name in enumerate(names)}
        shift_R = np.array([places[domains[int(row)]] for row in rows])
        found = dict[int, None]()
        for index in range(round_index, -1, -1):
            if len(found) == self.capacity:
                break
            for row in self.arrived(shift_R, seed, client, index)[::-1].tolist():
                if len(found) < self.capacity:
                    found.setdefault(row)
        return np.sort(rows[list(found)])

    def arrived(self, shift_R: Array, seed: int, client: int, round_index: int) -> Rows:
        """Positions among the client's rows of those that arrive before a round, in their order."""
        if round_index == 0:
            return stream(seed, "first arrivals", 0, client).permutation(len(shift_R))[: self.capacity]
        generator = stream(seed, "arrivals", round_index, client)
        turned = 0.0 if self.drift_rounds is None else np.cos(2 * np.pi * (round_index / self.drift_rounds - shift_R))
        chance_R = np.broadcast_to(self.arrivals / len(shift_R) * (1 + turned), len(shift_R))
        come_R, order = generator.random(len(shift_R)) < chance_R, generator.permutation(len(shift_R))
        return order[come_R[order]]
