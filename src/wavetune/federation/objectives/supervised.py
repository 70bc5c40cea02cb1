"""Objectives of the local steps of federated rounds: losses of the labels of a pass of several clients.

Legend: P labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from wavetune.federation.objectives.objective import Objective

if TYPE_CHECKING:
    from torch import Tensor

    from wavetune.federation.outputs import Outputs


class Supervised(Objective):
    """A loss of labels: of next tokens or, where rows have classes, of these."""

    takes_classes: ClassVar[bool] = True  # whether it can be computed where the labels are classes
    compares: ClassVar[bool] = False  # whether it asks what the model gives out without adapters

    @property
    def passes(self) -> tuple[int, int]:
        """One pass each way, and one forward where the model without adapters is asked as well."""
        return 1 + self.compares, 1

    def losses(self, outputs: Outputs, weight_P: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of the labels' losses with these weights, to be differentiated, and each one's value, `[P]`.

        A client's weights sum to 1, or to its share where a server computes the loss.
        """
        raise NotImplementedError
