"""Vectors of whole samples and the linear heads on them: one per client, in the bank like any adapter.

Legend: N tokens, S samples, D width, C outputs (classes, or one reward).
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from wavetune.costs.adapter import AdapterSite, Matrix
from wavetune.errors import ModelError
from wavetune.models.adapter import Segment
from wavetune.models.lora import AdapterBank

Pooling = Literal["mean", "first", "last"]

HEAD = "classifier"


def pool(hidden_ND: Tensor, lengths: Sequence[int], pooling: Pooling) -> Tensor:
    """Mean of each sample's tokens, or its first or last one. `[N, D]` to `[S, D]`.

    >>> pool(torch.arange(6.0).view(3, 2), [1, 2], "mean")
    tensor([[0., 1.],
            [3., 4.]])
    """
    if pooling == "mean":
        return torch.stack([sample.mean(0) for sample in hidden_ND.split(list(lengths))])
    stop_S = torch.tensor(lengths).cumsum(0)
    rows = stop_S - 1 if pooling == "last" else stop_S - torch.tensor(lengths)
    return hidden_ND.index_select(0, rows.to(hidden_ND.device))


def head_of(width: int, outputs: int, layer: int, name: str = HEAD) -> AdapterSite:
    """A trained linear head on vectors of this width, counted to a block: its weight is A and its bias B."""
    return AdapterSite(name, layer, "head", (Matrix("A", width, outputs, True, "uniform"), Matrix("B", outputs, 1)))


def head_site(bank: AdapterBank) -> AdapterSite:
    """Where the bank keeps its heads. Raises ModelError if it has none."""
    for site in bank.sites:
        if site.kind == "head":
            return site
    raise ModelError("the adapters have no classifier head; load the model with the number of classes")


def stacked_head(pooled_SD: Tensor, bank: AdapterBank, segments: Sequence[Segment]) -> Tensor:
    """Outputs of each sample's own head, `x W_s + b_s`. `[S, D]` to `[S, C]`.

    `segments` are `bank.segments(head_site(bank).layer, clients, samples of each)`.
    """
    name = head_site(bank).name
    slots = {
        local: [stack.unbind(0) for stack in (bank.local if local else bank.shared)[name].values()]
        for local in {segment.local for segment in segments}
    }
    outputs: list[Tensor] = []
    for local, slot, start, stop in segments:
        weight, bias = slots[local]
        outputs.append(torch.addmm(bias[slot], pooled_SD[start:stop], weight[slot]))
    return torch.cat(outputs)


def classification_loss(logits_SC: Tensor, labels_S: Tensor, weight_S: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted sum of cross-entropies in nats, and each sample's own (detached).

    With `weight_S` one over the client's samples, client k's head and adapters see the gradient of its own mean loss.
    """
    nll_S = F.cross_entropy(logits_SC, labels_S, reduction="none")
    return (nll_S * weight_S).sum(), nll_S.detach()
