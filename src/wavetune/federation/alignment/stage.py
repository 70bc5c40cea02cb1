"""The stage of local alignment, which runs after federated tuning: nothing of it leaves a device, nothing is mixed.

Legend: K clients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wavetune.data.examples import Example
from wavetune.data.templates import Template
from wavetune.errors import ConfigError, DataError
from wavetune.federation.alignment.evaluation import evaluation_of
from wavetune.federation.alignment.learner import Learner
from wavetune.federation.alignment.preference_learning import ClientPairs, PreferenceLearning
from wavetune.federation.alignment.reward_learning import RewardLearning
from wavetune.federation.alignment.rewards import Rewards
from wavetune.federation.objectives import AlignmentSettings
from wavetune.federation.objectives.distance import weight_distance
from wavetune.models.backbone import Backbone
from wavetune.models.lora import AdapterBank
from wavetune.records.alignment import HeldOut

Floats = NDArray[np.float64]


class Alignment:
    """Alignment of K clients, each to its own mixture of two rewards, in stacked passes.

    A client learns here what it would learn alone. The policy that keeps it in bounds is the model without LoRA, which
    all clients share and which needs no second copy.

    Args:
        backbone, bank: the model and all clients' adapters, none shared between them. LoRA alone is trained.
        tokenizer: of the model.
        prompts_by_client: training prompts of each client, whose own answers are not looked at. DPO needs none.
        lambdas: weight of the helpful reward for each client, 0 to 1; the safe one has the rest.
        rewards: both rewards; for DPO only what evaluations record.
        settings, seed: of the stage; all randomness is keyed by the seed and a client's identity.
        client_ids: identities; positions by default.
        template: how a prompt is written; plain by default.
        reference: from what divergence is measured; the same adapters without LoRA by default.
        pairs_by_client: preference pairs, for DPO.
        tokens_per_pass: bound of the tokens that go through the model at once.
    Raises: ConfigError where these do not fit each other; DataError if a client has nothing to learn from.
    """

    def __init__(
        self,
        backbone: Backbone,
        bank: AdapterBank,
        tokenizer: Any,
        prompts_by_client: Sequence[Sequence[Example]],
        lambdas: Sequence[float],
        rewards: Rewards | None,
        settings: AlignmentSettings,
        seed: int,
        *,
        client_ids: Sequence[int] | None = None,
        template: Template | None = None,
        reference: AdapterBank | None = None,
        pairs_by_client: Sequence[ClientPairs] = (),
        tokens_per_pass: int | None = None,
    ) -> None:
        num_clients, objective = bank.local_LK.shape[1], settings.objective
        ids = tuple(range(num_clients) if client_ids is None else client_ids)
        lambda_K = np.array(lambdas, np.float64)
        _check_clients(num_clients, ids, lambda_K)
        self.learner = Learner(backbone, bank, tokenizer, settings, seed, ids, template, reference, tokens_per_pass)
        self.prompts_by_client, self.rewards = tuple(map(tuple, prompts_by_client)), rewards
        if objective.learns_from == "pairs":
            _check_pairs(pairs_by_client, ids, lambda_K)
            self.learning = PreferenceLearning(self.learner, objective, pairs_by_client, lambda_K)
        else:
            _check_prompts(self.prompts_by_client, ids)
            if rewards is None:
                raise ConfigError(f"objective {objective.kind!r} learns from rewards; give them, or choose dpo")
            self.learning = RewardLearning(self.learner, objective, self.prompts_by_client, rewards, lambda_K)

    @property
    def steps_done(self) -> int:
        """Steps taken so far."""
        return self.learner.steps_done

    def step(self) -> dict[str, Floats]:
        """One step of every client; what it was like, by name, `[K]` each. Raises NumericsError where not finite."""
        metrics = self.learning.step()
        with torch.no_grad():
            metrics["distance"] = weight_distance(self.learner.lora).double().cpu().numpy()
        self.learner.steps_done += 1
        return metrics

    def evaluate(
        self,
        own_by_client: Sequence[Sequence[Example]],
        foreign_by_client: Sequence[Sequence[Example]] | None = None,
        temperature: float | None = None,
    ) -> HeldOut:
        """Every client's answers to held-out prompts of its own and of foreign domains, and all their scores.

        Answers are sampled with the same draws whenever this is called, so that before and after differ by what was
        learned; at the stage's temperature if no other is given, greedily at 0.
        Raises: DataError if a prompt is one of the client's training prompts; ConfigError without rewards.
        """
        if self.rewards is None:
            raise ConfigError("an evaluation needs rewards; give them to the alignment")
        parts = {"own": own_by_client} | ({} if foreign_by_client is None else {"foreign": foreign_by_client})
        for examples_by_client in parts.values():
            for identity, trained, held_out in zip(
                self.learner.client_ids, self.prompts_by_client, examples_by_client, strict=False
            ):
                seen = {example.prompt for example in trained} & {example.prompt for example in held_out}
                if seen:
                    raise DataError(
                        f"client {identity} was to be evaluated on a prompt that it is trained on; "
                        f"hold others out than {min(seen)[:60]!r}"
                    )
        return evaluation_of(self.learner, self.rewards, parts, temperature)

    def state(self) -> dict[str, Tensor]:
        """Everything that a continued run needs beside the frozen parts, as named tensors."""
        return self.learner.state() | self.learning.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned."""
        self.learner.load_state(state)
        self.learning.load_state(state)


def _check_clients(num_clients: int, client_ids: Sequence[int], lambda_K: Floats) -> None:
    for name, count in (("lambdas", len(lambda_K)), ("client_ids", len(set(client_ids)))):
        if count != num_clients:
            raise ConfigError(f"{name} has {count} distinct entries for {num_clients} clients; give one for each")
    for identity, weight in zip(client_ids, lambda_K.tolist(), strict=True):
        if not 0 <= weight <= 1:
            raise ConfigError(f"lambda of client {identity} is {weight}; it must be between 0 and 1")


def _check_prompts(prompts_by_client: Sequence[Sequence[Example]], client_ids: Sequence[int]) -> None:
    if len(prompts_by_client) != len(client_ids):
        raise ConfigError(f"there are prompts of {len(prompts_by_client)} clients, but {len(client_ids)} clients")
    for identity, own in zip(client_ids, prompts_by_client, strict=True):
        if not own:
            raise DataError(f"client {identity} has no prompts to learn from")


def _check_pairs(pairs_by_client: Sequence[ClientPairs], client_ids: Sequence[int], lambda_K: Floats) -> None:
    if len(pairs_by_client) != len(client_ids):
        raise ConfigError(
            f"there are pairs of {len(pairs_by_client)} clients, but {len(client_ids)} clients; dpo needs each one's"
        )
    for identity, own, weight in zip(client_ids, pairs_by_client, lambda_K.tolist(), strict=True):
        for kind, pairs, share in (("helpful", own.helpful, weight), ("harmless", own.harmless, 1 - weight)):
            if share > 0 and not pairs:
                raise DataError(f"client {identity} has no {kind} pairs to learn from, but lambda {weight}")
