"""Soft prompts: trained vectors that stand before the embedded tokens of every text (Lester et al., EMNLP 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from wavetune.federation.facts import UNTOUCHED
from wavetune.parts import Part


@dataclass(frozen=True)
class SoftPrompt(Part):
    """So many vectors of the model's width. They count as tokens of every text: they take time, memory and positions,
    and cross a cut.
    """

    removes = (UNTOUCHED,)  # the samples of a pass have room for the vectors
    tokens: Annotated[int, Ge(1)] = 20
