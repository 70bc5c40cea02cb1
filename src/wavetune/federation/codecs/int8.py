"""8-bit codec with one scale per row and its outlier channels apart.

Hidden states of language models have a few channels whose magnitude is tens of times the others'. A scale per token
that must cover them leaves the others almost no levels. So the channels with the largest peak in the message travel in
bf16 beside their indices, and only the rest is quantised.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from wavetune.federation.codecs.codec import Codec, Payload
from wavetune.federation.facts import NUMBERS_ALONE, UNROUNDED
from wavetune.federation.messages import Field

if TYPE_CHECKING:
    from torch import Tensor

_LEVELS = 127


@dataclass(frozen=True)
class Int8(Codec):
    """8 bits a value, 32 bits of scale per row, and `outlier_channels` channels in bf16 (with a 32-bit index each).

    The outlier channels are chosen per message by their largest magnitude.
    """

    removes = (UNROUNDED, NUMBERS_ALONE)
    outlier_channels: Annotated[int, Ge(0)] = 8

    def fields(self, rows: float, width: int) -> dict[str, Field]:
        """The tensors that are sent for a matrix of so many rows."""
        apart = min(self.outlier_channels, width) if rows else 0
        return {
            "codes": Field((rows, width - apart), "int8"),
            "scale": Field((rows, 1)),
            "outliers": Field((rows, apart), "bfloat16"),
            "index": Field((apart,), "int32"),
        }

    def encode(self, x: Tensor) -> Payload:
        """What is sent for `x [rows, width]`."""
        import torch

        x = x.detach().float()
        apart = min(self.outlier_channels, x.shape[1]) if len(x) else 0
        index = x.abs().amax(0).topk(apart).indices.sort().values if apart else x.new_zeros(0, dtype=torch.int64)
        keep = torch.ones(x.shape[1], dtype=torch.bool, device=x.device)
        keep[index] = False
        rest = x[:, keep]
        scale = rest.abs().amax(1, keepdim=True) / _LEVELS if rest.shape[1] else x.new_zeros(len(x), 1)
        codes = (rest / scale.clamp_min(torch.finfo(torch.float32).tiny)).round().clamp(-_LEVELS, _LEVELS)
        return {
            "codes": codes.to(torch.int8),
            "scale": scale,
            "outliers": x[:, index].bfloat16(),
            "index": index.to(torch.int32),
        }

    def decode(self, payload: Payload) -> Tensor:
        """What is received, fp32 `[rows, width]`."""
        import torch

        codes, index = payload["codes"], payload["index"].long()
        x = payload["scale"].new_empty(codes.shape[0], codes.shape[1] + len(index))
        keep = torch.ones(x.shape[1], dtype=torch.bool, device=x.device)
        keep[index] = False
        x[:, keep] = codes.float() * payload["scale"]
        x[:, index] = payload["outliers"].to(x)
        return x
