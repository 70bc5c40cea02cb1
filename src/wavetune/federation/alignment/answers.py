"""Answers under the adapters of a cohort: what stands at each of their tokens, in stacked passes without padding.

Legend: N tokens, S samples, P positions of all answers, D width.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

import numpy as np
import torch
from torch import Tensor

from wavetune.data.batching import runs
from wavetune.data.examples import Example
from wavetune.errors import ModelError
from wavetune.federation.alignment.learner import Learner
from wavetune.federation.memory import give_back_free_heap
from wavetune.models.backbone import Backbone
from wavetune.models.classifier import head_site, stacked_head
from wavetune.models.decode import Answer, Sampling, decode, keyed_draws
from wavetune.models.lora import AdapterBank
from wavetune.models.loss import frozen_head_log_probs
from wavetune.models.ragged import branched_layout
from wavetune.models.stopping import up_to_end
from wavetune.units import Array


@dataclass(frozen=True)
class Sample:
    """Token ids of a prompt and of its answer; whose adapters act on them, as a position in the cohort."""

    client: int
    prompt: tuple[int, ...]
    answer: tuple[int, ...]


@dataclass(frozen=True)
class Answered:
    """Answers of all clients to lists of prompts, client by client."""

    examples: list[Example]
    samples: list[Sample]
    texts: list[str]
    ended: list[bool]
    together: list[slice]  # answers that were decoded together
    measured: Array | None = None  # as `measured` would find them, `[3, P]`; None where that was not asked for


def answers_of(
    learner: Learner,
    examples_by_client: Sequence[Sequence[Example]],
    purpose: str,
    round_index: int,
    temperature: float | None = None,
    measure: bool = False,
) -> Answered:
    """Every client answers its prompts, in stacked passes; without a temperature at the stage's, greedily at 0.

    What is drawn for an answer depends on its place in its client's list and the client's identity, on nothing else.
    Clients answer together as far as their newest tokens fit one pass.
    """
    settings = learner.settings
    temperature = settings.temperature if temperature is None else temperature
    examples = [example for own in examples_by_client for example in own]
    owner_S = [client for client, own in enumerate(examples_by_client) for _ in own]
    places = [(learner.client_ids[k], place) for k, own in enumerate(examples_by_client) for place in range(len(own))]
    prompts, draws_ST = learner.prompt_ids(examples), None
    if temperature > 0:
        draws_ST = keyed_draws(learner.seed, purpose, round_index, places, settings.max_new_tokens)
    together = _together([len(own) for own in examples_by_client], learner.tokens_per_pass)
    found = list[Answer]()
    for part in together:
        sampling = None if draws_ST is None else Sampling(draws_ST[part], temperature)
        found += decode(
            learner.backbone, prompts[part], settings.max_new_tokens, learner.ends, learner.policy, owner_S[part],
            sampling, keep_states=measure,
        )  # fmt: skip
        give_back_free_heap()  # what the cache took
    samples = [Sample(k, tuple(p), answer.ids) for k, p, answer in zip(owner_S, prompts, found, strict=True)]
    said = [up_to_end(answer.ids, learner.ends) for answer in found]
    texts = [learner.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in said]
    numbers = [_told(found[part], owner_S[part], learner.values) for part in together] if measure else None
    measured = None if numbers is None else np.concatenate(numbers, 1)
    return Answered(examples, samples, texts, [answer.ended for answer in found], together, measured)


def _together(answers_K: Sequence[int], tokens_per_pass: int) -> list[slice]:
    """Answers of consecutive clients that are decoded at once: each takes one token in a pass.

    >>> _together([2, 1, 3], 3)
    [slice(0, 3, None), slice(3, 6, None)]
    """
    groups = runs(answers_K, tokens_per_pass)
    return [slice(sum(answers_K[: group.start]), sum(answers_K[: group.stop])) for group in groups]


@torch.no_grad()
def _told(found: Sequence[Answer], owner_S: Sequence[int], values: AdapterBank | None) -> Array:
    """Log-probability, entropy and value of every token, as they were when it was drawn. `[3, P]`."""
    log_prob_P: Array = np.array([value for answer in found for value in answer.log_probs], np.float64)
    entropy_P: Array = np.array([value for answer in found for value in answer.entropies], np.float64)
    value_P: Array = np.zeros_like(log_prob_P)
    if values is not None:
        states_PD = torch.cat([answer.states_TD for answer in found if answer.states_TD is not None])
        value_P = _values(states_PD, values, owner_S, [len(answer.ids) for answer in found]).double().cpu().numpy()
    return np.stack([log_prob_P, entropy_P, value_P])


@dataclass(frozen=True)
class AnswerTokens:
    """For every token of a pass's answers, one after another: its log-probability, the entropy there, its value."""

    log_prob_P: Tensor
    entropy_P: Tensor
    value_P: Tensor | None


def passes(samples: Sequence[Sample], tokens_per_pass: int, together: int = 1) -> Iterator[slice]:
    """Consecutive samples whose tokens fit a pass; every `together` of them are never parted.

    A pass ends between two prompts if it can, as a prompt whose answers are parted goes through the model twice.
    """
    last_ones, start = set(accumulate(map(len, _bundles(samples)))), 0
    while start < len(samples):
        stop = start + together
        while stop < len(samples) and _tokens(samples[start : stop + together]) <= tokens_per_pass:
            stop += together
        if stop < len(samples):
            stop = next((end for end in range(stop, start, -together) if end in last_ones), stop)
        yield slice(start, stop)
        start = stop


def _bundles(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Neighbours that answer the same prompt of the same client; it goes through the model once for them all."""
    return [list(run) for _, run in groupby(samples, key=lambda sample: (sample.client, sample.prompt))]


def _tokens(samples: Sequence[Sample]) -> int:
    """Tokens that go through the model: prompts, and all but the last of each answer."""
    return sum(len(own[0].prompt) + sum(len(s.answer) - 1 for s in own) for own in _bundles(samples))


def answer_tokens(
    backbone: Backbone,
    bank: AdapterBank,
    samples: Sequence[Sample],
    values: AdapterBank | None = None,
    temperature: float = 1.0,
) -> AnswerTokens:
    """One pass over the samples, differentiable, under the policy at a temperature. `values` holds one value head for
    each client, which see the hidden states detached.
    """
    if backbone.head is None:
        raise ModelError(f"{type(backbone.model).__name__} is an encoder and predicts no next token; choose a decoder")
    device, bundles = backbone.device, _bundles(samples)
    ids = [token for own in bundles for part in (own[0].prompt, *(s.answer[:-1] for s in own)) for token in part]
    trunks, branches = [len(own[0].prompt) for own in bundles], [[len(s.answer) - 1 for s in own] for own in bundles]
    layout = branched_layout(trunks, branches, device, backbone.key_tokens(bank))
    clients, tokens = _runs([own[0].client for own in bundles], layout.lengths)
    hidden_ND = backbone.forward(torch.tensor(ids, device=device), layout, bank, clients, tokens)
    before = torch.tensor(_before_answers(trunks, branches), device=device)
    normed_PD = backbone.final_norm(hidden_ND.index_select(0, before))
    labels_P = torch.tensor([token for sample in samples for token in sample.answer], device=device)
    log_prob_P, entropy_P = frozen_head_log_probs(normed_PD, backbone.head, labels_P, temperature)
    owner_S, sizes = [s.client for s in samples], [len(s.answer) for s in samples]
    value_P = None if values is None else _values(normed_PD.detach(), values, owner_S, sizes)
    return AnswerTokens(log_prob_P, entropy_P, value_P)


def _values(normed_PD: Tensor, values: AdapterBank, owner_S: Sequence[int], sizes: Sequence[int]) -> Tensor:
    """What each token's client expects there, of answers of so many tokens. `[P]`."""
    segments = values.segments(head_site(values).layer, *_runs(owner_S, sizes))
    return stacked_head(normed_PD, values, segments)[:, 0]


def _before_answers(trunks: Sequence[int], branches: Sequence[Sequence[int]]) -> list[int]:
    """Rows of the tokens after which each token of every answer comes: the trunk's last, then its branch's."""
    found, start = list[int](), 0
    for trunk, own in zip(trunks, branches, strict=True):
        last, start = start + trunk - 1, start + trunk
        for size in own:
            found += [last, *range(start, start + size)]
            start += size
    return found


def _runs(clients: Sequence[int], counts: Sequence[int]) -> tuple[list[int], list[int]]:
    """Runs of neighbours of one client: whose, and how many tokens."""
    runs = [(k, list(run)) for k, run in groupby(zip(clients, counts, strict=True), key=lambda pair: pair[0])]
    return [client for client, _ in runs], [sum(count for _, count in run) for _, run in runs]


@torch.no_grad()
def measured(
    backbone: Backbone,
    bank: AdapterBank,
    samples: Sequence[Sample],
    tokens_per_pass: int,
    values: AdapterBank | None = None,
    temperature: float = 1.0,
) -> Array:
    """Log-probability, entropy and value (0 without value heads) at every token of all answers. `[3, P]`."""
    found: list[Tensor] = []
    for part in passes(samples, tokens_per_pass):
        tokens = answer_tokens(backbone, bank, samples[part], values, temperature)
        value_P = torch.zeros_like(tokens.log_prob_P) if tokens.value_P is None else tokens.value_P
        found.append(torch.stack([tokens.log_prob_P, tokens.entropy_P, value_P]))
    return torch.cat(found, 1).double().cpu().numpy()
