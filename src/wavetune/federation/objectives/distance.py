"""How far private LoRA has moved a client's weights away from the common ones.

Legend: K clients, R rank.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from wavetune.models.lora import AdapterBank


def weight_distance(bank: AdapterBank) -> Tensor:
    """Squared distance of client k's weights from those without LoRA, `sum over sites of ||scale A_k B_k||^2`. `[K]`.

    Differentiable, and without forming a product: ||A B||^2 is the sum of (A^T A) * (B B^T), both `[R, R]`. All of the
    bank's LoRA must be the clients' own.
    """
    parts: list[Tensor] = []
    for site in bank.sites:
        if site.ranked:
            A, B = bank.local[site.name].values()
            parts.append(((A.transpose(1, 2) @ A) * (B @ B.transpose(1, 2))).sum((1, 2)))
    return bank.scale**2 * sum(parts[1:], parts[0])  # site by site, which rounds alike however many clients there are
