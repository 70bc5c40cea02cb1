"""Random streams keyed by (seed, purpose, round, client).

A stream depends on nothing but its key, so results do not change with the order of clients, the number of workers or a
resumed run. `client` is the client's identity, never its position in a list.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def stream(seed: int, purpose: str, round_index: int = 0, client_id: int = 0) -> np.random.Generator:
    """NumPy generator of one key.

    >>> bool(stream(1, "channel", 3, 7).random() == stream(1, "channel", 3, 7).random())
    True
    """
    return np.random.default_rng(_sequence(seed, purpose, round_index, client_id))


def torch_stream(seed: int, purpose: str, round_index: int = 0, client_id: int = 0) -> torch.Generator:
    """Torch generator of one key."""
    import torch

    state = _sequence(seed, purpose, round_index, client_id).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 31 ^ int(state[1]))


def _sequence(seed: int, purpose: str, round_index: int, client_id: int) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), round_index, client_id])
