"""What a model gives out for the labels of a pass: next tokens or, where there is a classifier, samples' classes.

Legend: N tokens, P labels, S samples, C classes, D width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wavetune.data.batching import RaggedBatch
from wavetune.errors import ConfigError
from wavetune.models.backbone import Backbone
from wavetune.models.classifier import classification_loss, head_site, stacked_head
from wavetune.models.lora import AdapterBank


@dataclass(frozen=True)
class TokenOutputs:
    """Next tokens at positions of a pass; `untouched` makes the pass without adapters, hidden states `[N, D]`.

    Sums over labels can be differentiated, each label's own value cannot.
    """

    backbone: Backbone
    hidden_ND: Tensor
    index_P: Tensor
    labels_P: Tensor
    untouched: Callable[[], Tensor]

    def nll(self, weight_P: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted sum of the labels' negative log-likelihoods in nats, and each one's; full logits never exist."""
        return self.backbone.labelled_loss(self.hidden_ND, self.index_P, self.labels_P, weight_P)

    def log_probs(self) -> tuple[Tensor, Tensor]:
        """Log-likelihood of each label and entropy of each distribution, in nats, both differentiable; `[P]`."""
        return self.backbone.labelled_log_probs(self.hidden_ND, self.index_P, self.labels_P)

    def divergence(self, weight_P: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Weighted sum of KL(untouched || adapted), both softened by a temperature, and each label's."""
        with torch.no_grad():
            there_ND = self.untouched()
        return self.backbone.labelled_divergence(self.hidden_ND, there_ND, self.index_P, weight_P, temperature)

    def right(self) -> Tensor | None:
        """Next tokens are not counted."""
        return None


@dataclass(frozen=True)
class ClassOutputs:
    """Classes of the samples of a pass."""

    logits_SC: Tensor
    labels_S: Tensor

    def nll(self, weight_P: Tensor) -> tuple[Tensor, Tensor]:
        """Cross entropies."""
        return classification_loss(self.logits_SC, self.labels_S, weight_P)

    def log_probs(self) -> tuple[Tensor, Tensor]:
        """Log-likelihoods and entropies."""
        log_probs_SC = self.logits_SC.log_softmax(1)
        return log_probs_SC.gather(1, self.labels_S[:, None])[:, 0], -(log_probs_SC.exp() * log_probs_SC).sum(1)

    def divergence(self, weight_P: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Refused: an untouched model has no classes."""
        raise ConfigError("the untouched model knows no classes to stay near; set method.objective=likelihood")

    def right(self) -> Tensor | None:
        """Where the largest logit is the label's."""
        return self.logits_SC.argmax(1) == self.labels_S


Outputs = TokenOutputs | ClassOutputs
"""Distributions over next tokens or classes, one a label."""


def outputs_of(
    backbone: Backbone,
    bank: AdapterBank | None,
    hidden_ND: Tensor,
    batch: RaggedBatch,
    clients: Sequence[int],
    labels_P: Tensor,
    untouched: Callable[[], Tensor],
) -> Outputs:
    """What comes of hidden states `[N, D]` behind the last block, of these clients of a bank (None: the base alone)."""
    if bank is None or not any(site.kind == "head" for site in bank.sites):
        index_P = torch.as_tensor(batch.label_index).to(backbone.device)
        return TokenOutputs(backbone, hidden_ND, index_P, labels_P, untouched)
    samples = np.bincount(batch.client_of_sample, minlength=len(clients)).tolist()
    segments = bank.segments(head_site(bank).layer, clients, samples)
    return ClassOutputs(stacked_head(backbone.pooled(hidden_ND, batch.lengths.tolist()), bank, segments), labels_P)
