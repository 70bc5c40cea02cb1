"""Sparse codec: of every row the values of largest magnitude, with their places."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from annotated_types import Gt, Le

from wavetune.federation.codecs.codec import Context, Payload, Tensors, UpdateCodec, send_with_feedback, zeros
from wavetune.federation.facts import COMMON_START, NUMBERS_ALONE, UNROUNDED, VALUES_SENT
from wavetune.federation.messages import Field, Spec

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TopK(UpdateCodec):
    """The largest `fraction` of each row's values (one at least) in fp32, each with a 32-bit place; the rest is 0.

    Adapters are then sent as changes since the last broadcast, and with `feedback` what was left out is added to the
    client's next update (error feedback, arXiv 1901.09847). The way back is sent whole.
    """

    removes = (UNROUNDED, VALUES_SENT, NUMBERS_ALONE)
    needs = (COMMON_START, NUMBERS_ALONE)
    of_changes = True
    fraction: Annotated[float, Gt(0), Le(1)] = 0.1
    feedback: bool = True

    def kept(self, width: int) -> int:
        """Values of a row that are sent."""
        return min(width, max(1, math.ceil(self.fraction * width)))

    def fields(self, rows: float, width: int) -> dict[str, Field]:
        """The tensors that are sent for a matrix of so many rows; "row" has no values, only a width."""
        kept = (rows, self.kept(width))
        return {"values": Field(kept), "index": Field(kept, "int32"), "row": Field((0, width))}

    def start(self, spec: Spec) -> Tensors:
        """Nothing has been left out yet."""
        return zeros(spec) if self.feedback else {}

    def send(self, x: Tensors, state: Tensors, context: Context) -> tuple[Tensors, Tensors]:
        """The largest values of each row, of the change with what was left out before."""
        if not self.feedback:
            return super().send(x, state, context)
        return send_with_feedback((replace(self, feedback=False),), x, state, context)

    def encode(self, x: Tensor) -> Payload:
        """What is sent for `x [rows, width]`."""
        import torch

        x = x.detach().float()
        index = x.abs().topk(self.kept(x.shape[1]), dim=1).indices.sort(dim=1).values
        return {"values": x.gather(1, index), "index": index.to(torch.int32), "row": x[:0]}

    def decode(self, payload: Payload) -> Tensor:
        """What is received, fp32 `[rows, width]`."""
        values = payload["values"]
        x = values.new_zeros(len(values), payload["row"].shape[1])
        return x.scatter_(1, payload["index"].long(), values)
