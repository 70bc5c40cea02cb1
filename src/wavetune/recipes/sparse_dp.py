"""Sparsified private updates: a random share of every update, clipped and noised, with an accountant.

Source: arXiv 2304.04164. Chain and defaults are our reconstruction (docs/exchange.md).
"""

from wavetune.federation.codecs import Fp32, RandomSparse
from wavetune.federation.privacy import Gaussian
from wavetune.recipe import Recipe
from wavetune.recipes import fedavg_lora


def recipe() -> Recipe:
    """The job of `fedavg_lora` with a quarter of every update, and half the clip norm: sqrt(keep) of that of all."""
    title, chain = "Sparse DP: random sparsification, clipping and noise", (RandomSparse(keep=0.25), Fp32())
    return fedavg_lora.like("sparse_dp", title, adapter_codec=chain, privacy=Gaussian(clip_norm=0.5))
