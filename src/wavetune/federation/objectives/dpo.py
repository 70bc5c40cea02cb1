"""Direct preference optimisation (Rafailov et al., arXiv 2305.18290): no rewards and no generation.

Legend: B pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Le

from wavetune.federation.objectives.alignment import AlignmentObjective

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Dpo(AlignmentObjective):
    """Of the pairs that a client has learned from, the share lambda is helpful pairs, the others are harmless ones."""

    learns_from = "pairs"
    beta: Annotated[float, Ge(1e-6), Le(1e6)] = 0.1

    @property
    def answers_to_each_prompt(self) -> int:
        """Both of a pair."""
        return 2

    @property
    def passes(self) -> tuple[int, int]:
        """One forward pass without LoRA, and one that is learned from: the answers are there."""
        return 2, 1

    def pair_loss(self, margin_B: Tensor) -> Tensor:
        """-log sigmoid(beta margin) of each pair. `[B]`."""
        return dpo_loss(margin_B, self.beta)


def preference_margin(
    chosen_B: Tensor, rejected_B: Tensor, reference_chosen_B: Tensor, reference_rejected_B: Tensor
) -> Tensor:
    """How much more than the reference the policy prefers the chosen answer, from log-probabilities of answers. `[B]`.

    Times beta it is the difference of the two answers' implicit rewards.
    """
    return (chosen_B - reference_chosen_B) - (rejected_B - reference_rejected_B)


def dpo_loss(margin_B: Tensor, beta: float) -> Tensor:
    """-log sigmoid(beta margin) of each pair (eq. 7). `[B]`."""
    from torch.nn.functional import softplus

    return softplus(-beta * margin_B)
