"""The seam of what a client's alignment minimises."""

from __future__ import annotations

from typing import ClassVar, Literal

from wavetune.parts import Part


class Objective(Part):
    """What every client minimises in its own alignment, on answers of its own or on pairs of answers."""

    home = "wavetune.federation.objectives"
    learns_from: ClassVar[Literal["rewards", "pairs"]] = "rewards"
    epochs: int = 1  # times that the answers of a step are learned from
    minibatches: int = 1  # parts in which they are

    @property
    def answers_to_each_prompt(self) -> int:
        """Answers to the same prompt in a step."""
        raise NotImplementedError
