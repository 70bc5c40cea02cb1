"""Cross-entropy at labelled positions with a frozen output layer, in chunks: the full logits never exist.

Legend: P labelled positions, D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_CHUNK_VALUES = 1 << 25  # logits held at once: 128 MiB in fp32


class _FrozenHeadCrossEntropy(torch.autograd.Function):
    """Loss and input gradient in one sweep over chunks; the head is frozen, so nothing else is needed backward."""

    @staticmethod
    def forward(
        ctx: Any, hidden_PD: Tensor, head_VD: Tensor, labels_P: Tensor, weight_P: Tensor, softcap: float | None
    ) -> tuple[Tensor, Tensor]:
        nll_P = torch.empty_like(weight_P)
        grad_PD = torch.empty_like(hidden_PD) if ctx.needs_input_grad[0] else None
        chunk = max(1, _CHUNK_VALUES // head_VD.shape[0])
        for start in range(0, len(labels_P), chunk):
            part = slice(start, start + chunk)
            low = hidden_PD[part].to(head_VD.dtype)
            logits = (low @ head_VD.t()).float()
            bent = None
            if softcap is not None:
                bent = torch.tanh(logits / softcap)
                logits = bent * softcap
            normaliser = torch.logsumexp(logits, -1, keepdim=True)
            picked = logits.gather(1, labels_P[part, None])
            nll_P[part] = (normaliser - picked)[:, 0]
            if grad_PD is not None:
                error = logits.sub_(normaliser).exp_()
                error.scatter_add_(1, labels_P[part, None], -torch.ones_like(picked))
                error *= weight_P[part, None]
                if bent is not None:
                    error *= 1 - bent**2
                grad_PD[part] = (error.to(head_VD.dtype) @ head_VD).to(grad_PD.dtype)
        if grad_PD is not None:
            ctx.save_for_backward(grad_PD)
        ctx.mark_non_differentiable(nll_P)
        return (nll_P * weight_P).sum(), nll_P

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.saved_tensors[0] * grads[0], None, None, None, None


def frozen_head_cross_entropy(
    hidden_PD: Tensor, head_VD: Tensor, labels_P: Tensor, weight_P: Tensor, softcap: float | None = None
) -> tuple[Tensor, Tensor]:
    """Weighted sum of negative log-likelihoods, in nats, and each position's own (detached).

    Hidden states `[P, D]` come out of the final norm; `weight_P` (fp32) is each position's factor in the sum. Products
    run in the head's precision, everything else in fp32. `softcap` bends logits as `softcap * tanh(logits / softcap)`.
    """
    return _FrozenHeadCrossEntropy.apply(hidden_PD, head_VD, labels_P, weight_P, softcap)
