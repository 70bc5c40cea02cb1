"""Self-distillation: labels are to be likely, and the model is to stay near what it gave out without adapters.

    F = (1 - w) (-log p(y)) + w T^2 KL(q_T || p_T),   q the untouched model's distribution, both softened by T

Source: distillation by Hinton et al. (arXiv 1503.02531, whose factor T^2 keeps the gradients' size); towards the global
model in a federation, as in FedGKD (arXiv 2107.00051). That the untouched model is the teacher is our reconstruction.
Legend: P labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Le

from wavetune.federation.facts import UNTOUCHED
from wavetune.federation.objectives.supervised import Supervised

if TYPE_CHECKING:
    from torch import Tensor

    from wavetune.federation.outputs import Outputs


@dataclass(frozen=True)
class SelfDistillation(Supervised):
    """A `weight` for the divergence from the model without adapters at a `temperature`; weight 0 is `likelihood`."""

    needs = (UNTOUCHED,)
    takes_classes = False
    compares = True
    weight: Annotated[float, Ge(0), Le(1)] = 0.5
    temperature: Annotated[float, Ge(1e-6), Le(1e6)] = 2.0

    def losses(self, outputs: Outputs, weight_P: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted sum, and each label's."""
        hard, nll_P = outputs.nll((1 - self.weight) * weight_P)
        scale = self.weight * self.temperature**2
        soft, divergence_P = outputs.divergence(scale * weight_P, self.temperature)
        return hard + soft, (1 - self.weight) * nll_P + scale * divergence_P
