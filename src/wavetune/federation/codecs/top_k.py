"""Sparse codec: of every row the values of largest magnitude, with their places."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Gt, Le

from wavetune.federation.codecs.codec import Payload, UpdateCodec
from wavetune.federation.facts import UNROUNDED, VALUES_SENT

if TYPE_CHECKING:
    from torch import Tensor

_INDEX_BITS = 32


@dataclass(frozen=True)
class TopK(UpdateCodec):
    """The largest `fraction` of each row's values (one at least) in fp32, each with a 32-bit place; the rest is 0.

    Meant for updates: adapters are then sent as changes since the last broadcast, and what was left out is added to the
    client's next update (error feedback, arXiv 1901.09847). The way back is sent whole.
    """

    removes = (UNROUNDED, VALUES_SENT)
    fraction: Annotated[float, Gt(0), Le(1)] = 0.1

    def kept(self, width: int) -> int:
        """Values of a row that are sent."""
        return min(width, max(1, math.ceil(self.fraction * width)))

    def bits(self, rows: float, width: int) -> float:
        """Bits of a message of `rows` vectors of `width` values."""
        return rows * self.kept(width) * (32 + _INDEX_BITS)

    def encode(self, x: Tensor) -> Payload:
        """What is sent for `x [rows, width]`."""
        import torch

        x = x.detach().float()
        index = x.abs().topk(self.kept(x.shape[1]), dim=1).indices.sort(dim=1).values
        return {"values": x.gather(1, index), "index": index.to(torch.int32), "row": x[:0]}

    def decode(self, payload: Payload) -> Tensor:
        """What is received, fp32 `[rows, width]`."""
        values = payload["values"]
        x = values.new_zeros(len(values), payload["row"].shape[1])  # "row" has no values, only a width
        return x.scatter_(1, payload["index"].long(), values)
