"""Prefixes with a client axis: trained keys and values that the attention of a block reads before those of a sample.

Legend: S samples, N tokens, P keys of a prefix, G key-value heads, D width of a key, E width of a value.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from wavetune.costs.adapter import AdapterSite
from wavetune.errors import ModelError
from wavetune.models.lora import AdapterBank
from wavetune.models.ragged import RaggedLayout, Rule, ragged_layout

KEYS, VALUES = "keys", "values"
"""The matrices of a site."""


@dataclass(frozen=True)
class Prefixes:
    """The prefixes of a pass: those of a bank at attention modules, for samples of these clients."""

    bank: AdapterBank
    sites: Mapping[nn.Module, AdapterSite]
    client_S: Sequence[int]

    def __call__(self, attention: nn.Module, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keys `[S, P, G, D]` and values `[S, P, G, E]` in the form of a pass's own, `[N, G, D]` and `[N, G, E]`.

        They are zero where the bank has none for a block, and some for others.
        """
        site, bank = self.sites[attention], self.bank
        if site.name not in bank.local and site.name not in bank.shared:
            rows = len(self.client_S), site.matrices[0].rows(0)
            return key.new_zeros(*rows, *key.shape[1:]), value.new_zeros(*rows, *value.shape[1:])
        keys, values = (
            bank.of_samples(site, name, self.client_S).unflatten(-1, own.shape[1:]).to(own.dtype)
            for name, own in ((KEYS, key), (VALUES, value))
        )
        return keys, values


@dataclass(frozen=True)
class Watching(RaggedLayout):
    """One token, whose attention is noted: widths of its keys and values, all heads together, by module."""

    widths: dict[Hashable, tuple[int, int]] = field(default_factory=dict[Hashable, tuple[int, int]], kw_only=True)

    @classmethod
    def one_token(cls, device: torch.device) -> Watching:
        """A layout that has noted nothing."""
        return cls(**vars(ragged_layout([1], device)))

    def attend(self, layer: Hashable, query: Tensor, key: Tensor, value: Tensor, rule: Rule) -> Tensor:
        """What the token reads. Raises ModelError where a module reads several times."""
        if layer in self.widths:
            raise ModelError(
                f"{type(layer).__name__} attends several times, and a prefix is read once; choose another adapter"
            )
        self.widths[layer] = key[0].numel(), value[0].numel()
        return super().attend(layer, query, key, value, rule)
