"""Training the clients' model to do what the servers' does, before clients are sent it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Le

from wavetune.federation.facts import KEPT_LORA, ONE_RANK
from wavetune.parts import Part

if TYPE_CHECKING:
    from torch import Tensor

    from wavetune.models.backbone import Backbone


@dataclass(frozen=True)
class Distillation(Part):
    """Steps of AdamW on rows of the server's, in a pass without adapters that are shared.

    Trained are the adapters that clients keep, LoRA at least.

    Of every token are compared the `states` behind the final norm, by their mean squared error (as FedSP's public
    program does), or the next token's `distributions`, by the divergence of the clients' model's from the servers'.
    """

    needs = (ONE_RANK, KEPT_LORA)
    steps: Annotated[int, Ge(1)] = 300
    batch_size: Annotated[int, Ge(1)] = 16
    learning_rate: Annotated[float, Ge(1e-12), Le(1e30)] = 5e-4
    of: Literal["states", "distributions"] = "states"

    def loss(self, pupil: Backbone, hidden_ND: Tensor, teacher_ND: Tensor) -> Tensor:
        """The mean over tokens, of hidden states behind the last block of either model."""
        import torch

        if self.of == "states":
            return torch.nn.functional.mse_loss(pupil.final_norm(hidden_ND), pupil.final_norm(teacher_ND))
        index_N = torch.arange(len(hidden_ND), device=hidden_ND.device)
        weight_N = torch.full((len(index_N),), 1 / len(index_N), device=hidden_ND.device, dtype=hidden_ND.dtype)
        return pupil.labelled_divergence(hidden_ND, teacher_ND, index_N, weight_N, 1.0)[0]
