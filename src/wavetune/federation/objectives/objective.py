"""The seam of objectives: what is minimised, and what it takes to compute it."""

from typing import ClassVar, Literal

from wavetune.parts import Part


class Objective(Part):
    """What clients minimise: in the local steps of federated rounds (`Supervised`), or in an alignment of their own."""

    home = "wavetune.federation.objectives"
    learns_from: ClassVar[Literal["labels", "rewards", "pairs"]] = "labels"

    @property
    def passes(self) -> tuple[int, int]:
        """Forward and backward passes over the samples of a step, which are charged."""
        return 1, 1
