"""Labels are to be likely, and the model is not to be too sure of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from wavetune.federation.objectives import Supervised

if TYPE_CHECKING:
    from torch import Tensor

    from wavetune.federation.outputs import Outputs


@dataclass(frozen=True)
class Unsure(Supervised):
    """-log p - beta H(p): a distribution of larger entropy costs less (arXiv 1701.06548); beta 0 is `likelihood`."""

    beta: Annotated[float, Ge(0)] = 0.1

    def losses(self, outputs: Outputs, weight_P: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted sum to be differentiated, and each label's value."""
        log_prob_P, entropy_P = outputs.log_probs()
        loss_P = -log_prob_P - self.beta * entropy_P
        return (loss_P * weight_P).sum(), loss_P.detach()
