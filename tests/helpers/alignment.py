"""A small cohort to be aligned: the tiny model in fp64, prompts of a line, and rewards that count characters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch

from helpers.adapters import pair_of
from helpers.training import folder_of, random_factors
from wavetune.data.examples import Example
from wavetune.federation.alignment import Alignment, Client, ClientPairs, Model, Rewards
from wavetune.federation.objectives import AlignmentSettings, KlControl, Ppo
from wavetune.federation.optimise import AdamW
from wavetune.models.backbone import Backbone, load_backbone, load_tokenizer
from wavetune.models.lora import AdapterBank, new_bank

TARGETS = ("q_proj", "v_proj", "o_proj", "down_proj")
FAST = AdamW(learning_rate=1e-2, weight_decay=0.0, schedule="constant", warmup_steps=0, epsilon=1e-6)
FREE = KlControl(start=0.0, target=None)


def share(low: str, high: str):
    """Share of an answer's characters between two letters."""

    def score(_examples: Sequence[Example], texts: Sequence[str]) -> list[float]:
        return [sum(low <= c <= high for c in text) / max(1, len(text)) for text in texts]

    return score


def constant(value: float):
    """The same for every answer."""
    return lambda _examples, texts: [value] * len(texts)


CHARACTERS = Rewards(share("\0", "\x7f"), share("\x80", "\U0010ffff"))  # a random model writes both
SETTINGS = AlignmentSettings(
    Ppo(answers_per_prompt=1, kl=FREE), steps=8, prompts_per_step=4, max_new_tokens=6, optimiser=FAST
)


def prompts_of(identities: Sequence[int], count: int = 9, word: str = "train") -> list[list[Example]]:
    """Each client's own prompts; lengths differ."""
    return [[Example(f"{word} {k} {'x' * (i % 4)}{i}", "", f"domain {k}") for i in range(count)] for k in identities]


@cache
def model() -> tuple[Backbone, Any]:
    """One backbone for all tests of a process: the banks differ."""
    return load_backbone(folder_of("tiny"), TARGETS, dtype=torch.float64), load_tokenizer(folder_of("tiny"))


def fresh_bank(num_clients: int) -> AdapterBank:
    """LoRA as it starts: without effect."""
    backbone, _ = model()
    own = np.ones((backbone.num_layers, num_clients), bool)
    return new_bank(backbone.sites, own, [4] * num_clients, 4, 8.0, 0, dtype=backbone.dtype)


def random_bank(identities: Sequence[int]) -> AdapterBank:
    """LoRA of clients that have learned something: a function of the client's identity."""
    backbone, _ = model()
    factors = [random_factors(backbone, 4, 10 + identity) for identity in identities]
    local = {
        s.name: pair_of(*(torch.stack([own[s.name][i] for own in factors]).requires_grad_() for i in (0, 1)))
        for s in backbone.sites
    }
    return AdapterBank(backbone.sites, np.ones((backbone.num_layers, len(identities)), bool), 0.5, local, {})


def alignment(
    bank: AdapterBank,
    lambdas: Sequence[float],
    settings: AlignmentSettings = SETTINGS,
    rewards: Rewards | None = CHARACTERS,
    identities: Sequence[int] | None = None,
    pairs_by_client: Sequence[ClientPairs] = (),
) -> Alignment:
    """The stage on the tiny model."""
    ids = tuple(range(len(lambdas))) if identities is None else identities
    pairs = pairs_by_client or [ClientPairs()] * len(ids)
    clients = [Client(k, *own) for k, *own in zip(ids, lambdas, map(tuple, prompts_of(ids)), pairs, strict=True)]
    backbone, tokenizer = model()
    return Alignment(Model(backbone, bank, tokenizer), clients, rewards, settings, 0)


def with_objective(objective: Any, **changes: Any) -> AlignmentSettings:
    """The settings with another objective."""
    return replace(SETTINGS, objective=objective, **changes)


def lora_of(stage: Alignment, client: int) -> dict[str, torch.Tensor]:
    """One client's adapters, by name."""
    return {n: t[client] for n, t in stage.state().items() if n.startswith("lora.")}
