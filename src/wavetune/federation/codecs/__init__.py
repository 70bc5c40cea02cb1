"""How values are written for the air. A codec is a small frozen part that states its size in advance.

Every codec has `bits(rows, width)`, `encode(x [rows, width]) -> named tensors` and `decode(named tensors) -> tensor`.
What `encode` returns is all that is sent: its tensors hold exactly `bits` bits. Planning uses `bits` alone and needs no
torch.
"""

from __future__ import annotations

from wavetune.federation.codecs.codec import Codec, Payload, UpdateCodec
from wavetune.federation.codecs.int8 import Int8
from wavetune.federation.codecs.precision import Bf16, Fp32, Fp64
from wavetune.federation.codecs.top_k import TopK


def down_codec(codec: UpdateCodec) -> UpdateCodec:
    """Codec of the way back of adapters: sparse updates add up to a dense mixture, which is sent whole."""
    return Fp32() if isinstance(codec, TopK) else codec


__all__ = ["Bf16", "Codec", "Fp32", "Fp64", "Int8", "Payload", "TopK", "UpdateCodec", "down_codec"]
