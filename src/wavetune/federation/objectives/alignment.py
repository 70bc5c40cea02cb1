"""Objectives of local alignment: what a client minimises on scored answers of its own, or on pairs of answers.

Legend: B pairs, S answers, P positions of all answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from wavetune.federation.objectives.kl import KlControl
from wavetune.federation.objectives.objective import Objective
from wavetune.units import Array, Ints

if TYPE_CHECKING:
    from torch import Tensor


class AlignmentObjective(Objective):
    """What every client minimises in its own alignment, on scored answers of its own or on pairs of answers."""

    learns_from = "rewards"
    divergence_in_loss: ClassVar[bool] = False  # of answers, rather than in the rewards
    epochs: int = 1  # times that the answers of a step are learned from
    minibatches: int = 1  # parts in which they are
    clip: float = 0.2  # of the ratio to the policy that answered
    entropy_coefficient: float = 0.0
    kl: KlControl = KlControl()
    value_learning_rate: float = 0.0  # of value heads; 0: there are none

    @property
    def answers_to_each_prompt(self) -> int:
        """Answers to the same prompt in a step."""
        raise NotImplementedError

    @property
    def passes(self) -> tuple[int, int]:
        """Forward and backward passes over a step's answers: answering, measuring with LoRA and without, learning."""
        return 3 + self.epochs, self.epochs

    def advantages(
        self, reward_S: Array, penalty_P: Array, value_P: Array, client_P: Ints, length_S: Ints
    ) -> tuple[Array, Array]:
        """Advantage of each token, and what its value should have been, `[P]` each, of rewards.

        The penalties are the log-ratios to the reference times their coefficients.
        """
        raise NotImplementedError

    def pair_loss(self, margin_B: Tensor) -> Tensor:
        """Loss of each pair, by how much more than the reference the policy prefers its chosen answer. `[B]`."""
        raise NotImplementedError
