"""What turns normed hidden states into logits: a frozen linear map over the vocabulary, a scale and a soft cap.

Legend: P positions, D width, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from wavetune.models.products import has_bf16_products, product, product_back


@dataclass(frozen=True)
class OutputLayer:
    """Logits are `scale * (W h + b)`, then bent as `softcap * tanh(logits / softcap)` if there is a soft cap.

    `weight` `[V, D]`, `bias` `[V]`.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    @property
    def narrow(self) -> bool:
        """Whether logits are a product in bf16 and nothing else, on a processor that multiplies such matrices."""
        plain = self.bias is None and self.scale == 1.0 and self.softcap is None
        return (
            plain and self.weight.dtype == torch.bfloat16 and self.weight.device.type == "cpu" and has_bf16_products()
        )

    def product(self, hidden_PD: Tensor, room_PV: Tensor | None = None) -> Tensor:
        """`W h` in the weight's precision, which may overwrite `room_PV`."""
        return product(hidden_PD, self.weight, room=room_PV)

    def logits(self, hidden_PD: Tensor, room_PV: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Logits `[P, V]` in fp32 or wider, and the tanh of the soft cap; products run in the weight's precision.

        They may overwrite `room_PV`.
        """
        wide = torch.promote_types(hidden_PD.dtype, torch.float32)
        logits = self.product(hidden_PD, room_PV).to(wide)
        if self.bias is not None:
            logits += self.bias
        if self.scale != 1.0:
            logits *= self.scale
        if self.softcap is None:
            return logits, None
        bent = torch.tanh(logits / self.softcap)
        return bent * self.softcap, bent

    def back(self, error_PV: Tensor, bent_PV: Tensor | None) -> Tensor:
        """Gradient of the hidden states from that of the logits, which it overwrites. `[P, V]` to `[P, D]`."""
        if bent_PV is not None:
            error_PV *= 1 - bent_PV**2
        if self.scale != 1.0:
            error_PV *= self.scale
        return product_back(error_PV, self.weight)
