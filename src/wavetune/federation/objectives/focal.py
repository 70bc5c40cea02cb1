"""Focal loss: labels that are likely already count for less (Lin et al., ICCV 2017, arXiv 1708.02002, eq. 4).

Legend: P labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Le

from wavetune.federation.objectives.supervised import Supervised

if TYPE_CHECKING:
    from torch import Tensor

    from wavetune.federation.outputs import Outputs


@dataclass(frozen=True)
class Focal(Supervised):
    """-(1 - p)^gamma log p of every label, for clients whose labels are of few kinds; gamma 0 is `likelihood`."""

    gamma: Annotated[float, Ge(0), Le(100)] = 2.0

    def losses(self, outputs: Outputs, weight_P: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted sum, and each label's."""
        log_prob_P, _ = outputs.log_probs()
        loss_P = -((-log_prob_P.expm1()).clamp(min=1e-12) ** self.gamma) * log_prob_P
        return (loss_P * weight_P).sum(), loss_P.detach()
