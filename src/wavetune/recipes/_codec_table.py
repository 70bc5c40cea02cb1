"""What codecs at the cut cost in rounds, measured with `wavetune measure-codecs` (see docs/planning-options.md)."""

from wavetune.federation.codec_choice import CodecCandidate
from wavetune.federation.codecs import Bf16, Fp32, Int8

CODEC_CANDIDATES: tuple[CodecCandidate, ...] = (
    CodecCandidate(Fp32(), Fp32(), 1.0),
    CodecCandidate(Bf16(), Bf16(), 1.003),
    CodecCandidate(Int8(outlier_channels=8), Int8(outlier_channels=8), 1.003),
    CodecCandidate(Int8(outlier_channels=0), Int8(outlier_channels=0), 1.016),
)
