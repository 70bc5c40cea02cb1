"""Adapters as tests write them down."""

from __future__ import annotations

from torch import Tensor

from wavetune.costs.adapter import AdapterSite
from wavetune.models.lora import Matrices, lora_matrices


def pair_of(A: Tensor, B: Tensor) -> Matrices:
    """The two factors of LoRA."""
    return {"A": A, "B": B}


def lora_site(name: str, layer: int, in_features: int, out_features: int) -> AdapterSite:
    """A linear map that carries LoRA."""
    return AdapterSite(name, layer, "lora", lora_matrices(in_features, out_features), "B")


def widths_of(site: AdapterSite) -> tuple[int, int]:
    """What the map of LoRA reads and yields."""
    return site.matrices[0].width, site.matrices[1].width
