"""Sparsified private updates: a random share of every update, clipped and noised, with an accountant.

Source: arXiv 2304.04164. Chain and defaults are our reconstruction (docs/exchange.md).
"""

from dataclasses import replace

from wavetune.federation.codecs import Fp32, RandomSparse
from wavetune.federation.privacy import Gaussian
from wavetune.recipe import Recipe
from wavetune.recipes import fedavg_lora


def recipe() -> Recipe:
    """The job of `fedavg_lora` with a quarter of every update, and half the clip norm: sqrt(keep) of that of all."""
    plain = fedavg_lora.recipe()
    return replace(
        plain,
        name="sparse_dp",
        method=replace(
            plain.method,
            title="Sparse DP: random sparsification, clipping and noise",
            adapter_codec=(RandomSparse(keep=0.25), Fp32()),
            privacy=Gaussian(clip_norm=0.5),
        ),
    )
