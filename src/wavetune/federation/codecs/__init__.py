"""What is done to messages on their way: codecs, and transforms of adapters that form chains with them.

Every part declares what is then on the wire (`spec`, `fields`), which needs no torch: predictions, contracts and meters
read it. What is sent is exactly that.
"""

from wavetune.federation.codecs.clip import Clip
from wavetune.federation.codecs.codec import Chain, Codec, Context, Payload, Tensors, Transform, UpdateCodec
from wavetune.federation.codecs.feedback import Feedback
from wavetune.federation.codecs.int8 import Int8
from wavetune.federation.codecs.noise import Noise
from wavetune.federation.codecs.precision import Bf16, Fp32, Fp64
from wavetune.federation.codecs.random_sparse import RandomSparse
from wavetune.federation.codecs.top_k import TopK

__all__ = [
    "Bf16",
    "Chain",
    "Clip",
    "Codec",
    "Context",
    "Feedback",
    "Fp32",
    "Fp64",
    "Int8",
    "Noise",
    "Payload",
    "RandomSparse",
    "Tensors",
    "TopK",
    "Transform",
    "UpdateCodec",
]
