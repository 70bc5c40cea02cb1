"""Soft prompts: trained vectors that stand before the embedded tokens of every text (Lester et al., EMNLP 2021)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le

from wavetune.costs.adapter import Matrix
from wavetune.federation.facts import UNTOUCHED
from wavetune.models.adapter import ModelAdapter
from wavetune.parts import Part


@dataclass(frozen=True)
class SoftPrompt(ModelAdapter, Part):
    """So many vectors of the model's width. They count as tokens of every text: they take time, memory and positions,
    and cross a cut.
    """

    name = "prompt"
    removes = (UNTOUCHED,)  # the samples of a pass have room for the vectors
    tokens: Annotated[int, Ge(1), Le(65536)] = 20

    @property
    def prompt_tokens(self) -> int:
        """Positions before every text."""
        return self.tokens

    def before(self, hidden_size: int) -> Sequence[Matrix]:
        """The vectors."""
        return (Matrix("vectors", hidden_size, self.tokens, start="normal"),)
