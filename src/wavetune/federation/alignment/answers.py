"""Answers under the adapters of a cohort: what stands at each of their tokens, in stacked passes without padding.

Legend: N tokens, S samples, P positions of all answers, D width.
"""

# pyright: reportUnknownMemberType=false
# (the stubs of torch leave parts of their types open)

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wavetune.data.examples import Example
from wavetune.errors import ModelError
from wavetune.federation.alignment.learner import Learner
from wavetune.models.backbone import Backbone
from wavetune.models.classifier import head_site, stacked_head
from wavetune.models.decode import Sampling, decode, keyed_draws
from wavetune.models.lora import AdapterBank
from wavetune.models.loss import frozen_head_log_probs
from wavetune.models.ragged import ragged_layout


@dataclass(frozen=True)
class Sample:
    """Token ids of a prompt and of its answer; whose adapters act on them, as a position in the cohort."""

    client: int
    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Tokens that go through the model: all but the last."""
        return len(self.prompt) + len(self.answer) - 1


@dataclass(frozen=True)
class Answered:
    """Answers of all clients to lists of prompts, client by client."""

    examples: list[Example]
    samples: list[Sample]
    texts: list[str]
    ended: list[bool]


def answers_of(
    learner: Learner,
    examples_by_client: Sequence[Sequence[Example]],
    purpose: str,
    round_index: int,
    temperature: float = 1.0,
) -> Answered:
    """Every client answers its prompts, in stacked passes; greedily at temperature 0.

    What is drawn for an answer depends on its place in its client's list and the client's identity, on nothing else.
    """
    settings = learner.settings
    examples = [example for own in examples_by_client for example in own]
    owner_S = [client for client, own in enumerate(examples_by_client) for _ in own]
    places = [(learner.client_ids[k], place) for k, own in enumerate(examples_by_client) for place in range(len(own))]
    prompts, sampling = learner.prompt_ids(examples), None
    if temperature > 0:
        draws_ST = keyed_draws(learner.seed, purpose, round_index, places, settings.max_new_tokens)
        sampling = Sampling(draws_ST, temperature)
    found = decode(
        learner.backbone, prompts, settings.max_new_tokens, learner.stop_ids, learner.policy, owner_S, sampling
    )
    samples = [Sample(k, tuple(p), answer.ids) for k, p, answer in zip(owner_S, prompts, found, strict=True)]
    said = [answer.ids[:-1] if answer.ended else answer.ids for answer in found]
    texts = [learner.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in said]
    return Answered(examples, samples, texts, [answer.ended for answer in found])


@dataclass(frozen=True)
class AnswerTokens:
    """For every token of a pass's answers, one after another: its log-probability, the entropy there, its value."""

    log_prob_P: Tensor
    entropy_P: Tensor
    value_P: Tensor | None


def passes(samples: Sequence[Sample], tokens_per_pass: int, together: int = 1) -> Iterator[slice]:
    """Consecutive samples whose tokens fit a pass; every `together` of them are never parted."""
    start, total = 0, 0
    for index in range(0, len(samples), together):
        tokens = sum(sample.tokens for sample in samples[index : index + together])
        if index > start and total + tokens > tokens_per_pass:
            yield slice(start, index)
            start, total = index, 0
        total += tokens
    if samples:
        yield slice(start, len(samples))


def answer_tokens(
    backbone: Backbone, bank: AdapterBank, samples: Sequence[Sample], values: AdapterBank | None = None
) -> AnswerTokens:
    """One pass over the samples, differentiable. `values` holds one value head for each client, which see the hidden
    states detached.
    """
    if backbone.head is None:
        raise ModelError(f"{type(backbone.model).__name__} is an encoder and predicts no next token; choose a decoder")
    ids = [[*sample.prompt, *sample.answer[:-1]] for sample in samples]
    starts = np.cumsum([0, *(len(row) for row in ids)])
    positions = [
        start + len(sample.prompt) - 1 + np.arange(len(sample.answer))
        for start, sample in zip(starts[:-1], samples, strict=True)
    ]
    device = backbone.device
    clients, tokens, answered = _owners(samples)
    hidden_ND = backbone.forward(
        torch.tensor([token for row in ids for token in row], device=device),
        ragged_layout([len(row) for row in ids], device),
        bank,
        clients,
        tokens,
    )
    normed_PD = backbone.final_norm(hidden_ND.index_select(0, torch.from_numpy(np.concatenate(positions)).to(device)))
    labels_P = torch.tensor([token for sample in samples for token in sample.answer], device=device)
    log_prob_P, entropy_P = frozen_head_log_probs(normed_PD, backbone.head.weight, labels_P, backbone.softcap)
    value_P = None
    if values is not None:
        segments = values.segments(head_site(values).layer, clients, answered)
        value_P = stacked_head(normed_PD.detach(), values, segments)[:, 0]
    return AnswerTokens(log_prob_P, entropy_P, value_P)


def _owners(samples: Sequence[Sample]) -> tuple[list[int], list[int], list[int]]:
    """Runs of samples of one client: whose, with how many tokens, and of how many answer tokens."""
    runs = [(client, list(run)) for client, run in groupby(samples, key=lambda sample: sample.client)]
    return (
        [client for client, _ in runs],
        [sum(sample.tokens for sample in run) for _, run in runs],
        [sum(len(sample.answer) for sample in run) for _, run in runs],
    )


@torch.no_grad()
def measured(
    backbone: Backbone,
    bank: AdapterBank,
    samples: Sequence[Sample],
    tokens_per_pass: int,
    values: AdapterBank | None = None,
) -> NDArray[np.float64]:
    """Log-probability, entropy and value (0 without value heads) at every token of all answers. `[3, P]`."""
    found: list[Tensor] = []
    for part in passes(samples, tokens_per_pass):
        tokens = answer_tokens(backbone, bank, samples[part], values)
        value_P = torch.zeros_like(tokens.log_prob_P) if tokens.value_P is None else tokens.value_P
        found.append(torch.stack([tokens.log_prob_P, tokens.entropy_P, value_P]))
    return torch.cat(found, 1).double().cpu().numpy()
