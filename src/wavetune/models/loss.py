"""Cross-entropy, log-probabilities and entropies at labelled positions with a frozen output layer, in chunks: the full
logits never exist.

Legend: P labelled positions, D width, V vocabulary.
"""

from math import ceil
from typing import Any

import torch
from torch import Tensor

from wavetune.models.output_layer import OutputLayer

_CHUNK_VALUES = 1 << 25  # logits held at once: 128 MiB in fp32
_CHUNK_ROWS = 64  # of which a chunk has a multiple: products of other counts can be half as fast
_LEAST_VOCABULARY = 1 << 14  # that is worth a compiled sweep; a smaller one starts sooner without a compiler


class _FrozenHeadCrossEntropy(torch.autograd.Function):
    """Loss and input gradient in one sweep over chunks; the head is frozen, so nothing else is needed backward."""

    @staticmethod
    def forward(
        ctx: Any, hidden_PD: Tensor, head: OutputLayer, labels_P: Tensor, weight_P: Tensor
    ) -> tuple[Tensor, Tensor]:
        nll_P = torch.empty_like(weight_P)
        grad_PD = torch.empty_like(hidden_PD) if ctx.needs_input_grad[0] else None
        narrow = hidden_PD.dtype == torch.float32 and head.narrow and head.weight.shape[0] >= _LEAST_VOCABULARY
        logits = None
        for part in _chunks(len(labels_P), head.weight.shape[0]):
            own = hidden_PD[part], logits  # a chunk takes the room of the one before
            logits, bent = (head.product(*own), None) if narrow else head.logits(*own)
            nll_P[part] = _likelihoods(logits, labels_P[part], weight_P[part])
            if grad_PD is not None:
                grad_PD[part] = head.back(logits, bent)
        if grad_PD is not None:
            ctx.save_for_backward(grad_PD)
        ctx.mark_non_differentiable(nll_P)
        return (nll_P * weight_P).sum(), nll_P

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.saved_tensors[0] * grads[0], None, None, None


def frozen_head_cross_entropy(
    hidden_PD: Tensor, head: OutputLayer, labels_P: Tensor, weight_P: Tensor
) -> tuple[Tensor, Tensor]:
    """Weighted sum of negative log-likelihoods, in nats, and each position's own (detached).

    Hidden states `[P, D]` come out of the final norm; `weight_P` (fp32) is each position's factor in the sum. Products
    run in the head's precision, everything else in fp32.
    """
    return _FrozenHeadCrossEntropy.apply(hidden_PD, head, labels_P, weight_P)


class _FrozenHeadLogProbs(torch.autograd.Function):
    """What each position's gradient is multiplied by is not known before the backward pass. Logits of one chunk are
    kept until then; those of several are computed again.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden_PD: Tensor, head: OutputLayer, labels_P: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        wide, ctx.kept = torch.promote_types(hidden_PD.dtype, torch.float32), None
        log_prob_P, entropy_P = (torch.empty(len(labels_P), dtype=wide, device=hidden_PD.device) for _ in range(2))
        chunks = _chunks(len(labels_P), head.weight.shape[0])
        for part in chunks:
            logits, bent = head.logits(hidden_PD[part])
            log_prob_P[part], entropy_P[part] = _distributions(logits, labels_P[part], temperature)
            if len(chunks) == 1 and ctx.needs_input_grad[0]:
                ctx.kept = logits, bent
        ctx.save_for_backward(hidden_PD, labels_P, entropy_P)
        ctx.head, ctx.temperature = head, temperature
        return log_prob_P, entropy_P

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_PD, labels_P, entropy_P = ctx.saved_tensors
        kept, ctx.kept = ctx.kept, None  # which this pass overwrites
        head: OutputLayer = ctx.head
        g_log_prob, g_entropy = grads
        grad_PD = torch.empty_like(hidden_PD)
        for part in _chunks(len(labels_P), head.weight.shape[0]):
            logits, bent = kept or head.logits(hidden_PD[part])
            by_row = (labels_P[part], entropy_P[part], g_log_prob[part], g_entropy[part])
            grad_PD[part] = head.back(_distributions_back(logits, *by_row, ctx.temperature), bent)
        return grad_PD, None, None, None


class _FrozenHeadDivergence(torch.autograd.Function):
    """Loss and input gradient in one sweep over chunks, as for the cross-entropy; the teacher's states are given."""

    @staticmethod
    def forward(
        ctx: Any, hidden_PD: Tensor, teacher_PD: Tensor, head: OutputLayer, weight_P: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        kl_P = torch.empty_like(weight_P)
        grad_PD = torch.empty_like(hidden_PD) if ctx.needs_input_grad[0] else None
        for part in _chunks(len(weight_P), head.weight.shape[0]):
            teacher = torch.log_softmax(head.logits(teacher_PD[part])[0] / temperature, -1)
            logits, bent = head.logits(hidden_PD[part])
            student = torch.log_softmax(logits / temperature, -1)
            kl_P[part] = (teacher.exp() * (teacher - student)).sum(-1)
            if grad_PD is not None:  # d KL / dz = (p - q) / T
                error = student.exp_().sub_(teacher.exp_()).mul_(weight_P[part, None] / temperature)
                grad_PD[part] = head.back(error, bent)
        if grad_PD is not None:
            ctx.save_for_backward(grad_PD)
        ctx.mark_non_differentiable(kl_P)
        return (kl_P * weight_P).sum(), kl_P

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.saved_tensors[0] * grads[0], None, None, None, None


def frozen_head_divergence(
    hidden_PD: Tensor, teacher_PD: Tensor, head: OutputLayer, weight_P: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Weighted sum of KL(teacher || student) in nats at each position, and each one's own (detached).

    Both are the head's distributions with logits divided by the temperature, of hidden states `[P, D]` that come out of
    the final norm. Only the student's get a gradient.
    """
    return _FrozenHeadDivergence.apply(hidden_PD, teacher_PD, head, weight_P, temperature)


def is_swept(logits: Tensor) -> bool:
    """Whether compiled sweeps take what they can from such logits `[P, V]`."""
    fits = logits.dtype in (torch.float32, torch.bfloat16) and logits.device.type == "cpu" and logits.is_contiguous()
    return fits and logits.shape[1] >= _LEAST_VOCABULARY


def _likelihoods(logits: Tensor, labels_P: Tensor, weight_P: Tensor) -> Tensor:
    """Negative log-likelihoods; the logits `[P, V]` become the gradient of their weighted sum."""
    if is_swept(logits):
        from wavetune.models.kernels import likelihoods

        return likelihoods(logits, labels_P, weight_P)
    normaliser = torch.logsumexp(logits, -1, keepdim=True)
    picked = logits.gather(1, labels_P[:, None])
    error = logits.sub_(normaliser).exp_()
    error.scatter_add_(1, labels_P[:, None], -torch.ones_like(picked))
    error *= weight_P[:, None]
    return (normaliser - picked)[:, 0]


def _distributions(logits: Tensor, labels_P: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the labels, and entropies, of logits `[P, V]`."""
    if is_swept(logits):
        from wavetune.models.kernels import distributions

        return distributions(logits, labels_P, temperature)
    log_probs = torch.log_softmax(logits / temperature, -1)
    return log_probs.gather(1, labels_P[:, None])[:, 0], -(log_probs.exp() * log_probs).sum(-1)


def _distributions_back(
    logits: Tensor, labels_P: Tensor, entropy_P: Tensor, to_log_prob_P: Tensor, to_entropy_P: Tensor, temperature: float
) -> Tensor:
    """Gradient of the logits `[P, V]`, which it may overwrite, from those of log-probabilities and entropies."""
    if is_swept(logits):
        from wavetune.models.kernels import distributions_back

        distributions_back(logits, labels_P, entropy_P, to_log_prob_P, to_entropy_P, temperature)
        return logits
    log_probs = torch.log_softmax(logits / temperature, -1)
    own = to_log_prob_P[:, None]
    # d log p_y / dz = [y] - p,  dH / dz = -p (log p + H)
    error = log_probs.exp().mul_(-own - to_entropy_P[:, None] * (log_probs + entropy_P[:, None]))
    return error.scatter_add_(1, labels_P[:, None], own).div_(temperature)


def _chunks(positions: int, vocabulary: int) -> list[slice]:
    """As few as hold so many values at most, all of about one size.

    >>> [part.stop for part in _chunks(1400, 49152)], [part.stop for part in _chunks(9, 1 << 24)]
    ([512, 1024, 1536], [2, 4, 6, 8, 10])
    """
    most = max(1, _CHUNK_VALUES // vocabulary)
    unit = min(most, _CHUNK_ROWS)
    count = ceil(positions / (most - most % unit))
    rows = ceil(positions / max(count, 1) / unit) * unit
    return [slice(start, start + rows) for start in range(0, positions, max(rows, 1))]


def frozen_head_log_probs(
    hidden_PD: Tensor, head: OutputLayer, labels_P: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Log-probability of each label, and entropy of each position's distribution, in nats; both differentiable.

    Hidden states `[P, D]` come out of the final norm. Products run in the head's precision, everything else in fp32
    (fp64 if the hidden states are). Logits are divided by the temperature.
    """
    return _FrozenHeadLogProbs.apply(hidden_PD, head, labels_P, temperature)
