"""Soft prompts with a client axis: the first embedded tokens of every sample are its client's trained vectors.

A batch holds so many tokens more at the beginning of each sample, whose ids are not looked at. Legend: S samples, N
tokens, D width, P vectors of a prompt.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from wavetune.costs.adapter import AdapterSite
from wavetune.models.lora import AdapterBank

PROMPT, VECTORS = "prompt", "vectors"
"""The site's name, and its matrix'."""


def with_prompts(
    embedded_ND: Tensor, lengths: Sequence[int], bank: AdapterBank, site: AdapterSite, client_S: Sequence[int]
) -> Tensor:
    """Embedded tokens `[N, D]` of samples of these lengths, the first P of each exchanged for its client's vectors."""
    own_SPD = bank.of_samples(site, VECTORS, client_S)
    starts = torch.tensor([0, *accumulate(lengths)][:-1], device=embedded_ND.device)
    vectors = own_SPD.flatten(0, 1).to(embedded_ND.dtype)
    places = (starts[:, None] + torch.arange(own_SPD.shape[1], device=starts.device)).flatten()
    return embedded_ND.index_copy(0, places, vectors)


def clients_of_samples(clients: Sequence[int], tokens: Sequence[int], lengths: Sequence[int]) -> list[int]:
    """Whose each sample is, of clients that have so many tokens each.

    >>> clients_of_samples([4, 7], [5, 2], [3, 2, 2])
    [4, 4, 7]
    """
    found, sizes = list[int](), iter(lengths)
    for client, count in zip(clients, tokens, strict=True):
        while count > 0:
            count -= next(sizes)
            found.append(client)
    return found
