"""The factors of LoRA in turn: in one round all train and send B alone, in the next A alone (RoLoRA, arXiv 2409.02346).

Where one factor is the same for all, the mean of the products is the product of the means, so that averaging is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wavetune.federation.exchanges.star import Star
from wavetune.federation.facts import ADAPTERS, BOTH_FACTORS, EVERY_FACTOR
from wavetune.federation.messages import Agenda

if TYPE_CHECKING:
    from wavetune.federation.codecs import Tensors


@dataclass(frozen=True)
class Turns(Star):
    """A star whose rounds are about one factor of LoRA: B first, as A has no gradient while B is zero."""

    needs = (ADAPTERS, BOTH_FACTORS)
    removes = (EVERY_FACTOR,)

    def agenda(self, state: Tensors, num_layers: int, round_index: int) -> Agenda:
        """All blocks, without the factor whose turn it is not."""
        return Agenda(frozen=frozenset("BA"[(round_index + 1) % 2]))
