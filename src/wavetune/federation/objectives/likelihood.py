"""The usual objective: labels are to be likely.

Legend: P labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wavetune.federation.objectives.supervised import Supervised

if TYPE_CHECKING:
    from torch import Tensor

    from wavetune.federation.outputs import Outputs


@dataclass(frozen=True)
class Likelihood(Supervised):
    """The negative log-likelihood of the labels in nats, -log p: cross entropy of next tokens, or of classes."""

    def losses(self, outputs: Outputs, weight_P: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted sum, and each label's."""
        return outputs.nll(weight_P)
