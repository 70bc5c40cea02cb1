"""The stage of local alignment, which runs after federated tuning: nothing of it leaves a device, nothing is mixed.

Legend: K clients.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from wavetune.data.examples import Example
from wavetune.errors import ConfigError, DataError
from wavetune.federation.alignment.evaluation import evaluation_of
from wavetune.federation.alignment.learner import Learner, Model
from wavetune.federation.alignment.preference_learning import ClientPairs, PreferenceLearning
from wavetune.federation.alignment.reward_learning import RewardLearning
from wavetune.federation.alignment.rewards import Rewards
from wavetune.federation.objectives import AlignmentSettings
from wavetune.federation.objectives.distance import weight_distance
from wavetune.records.alignment import HeldOut
from wavetune.units import Array


@dataclass(frozen=True)
class Client:
    """What one client learns from, and its owner's wish.

    Args:
        identity: by which its randomness is keyed.
        helpful: weight of the helpful reward, 0 to 1; the safe one has the rest.
        prompts: for training; their own answers are not looked at. DPO needs none.
        pairs: for DPO alone.
    """

    identity: int
    helpful: float
    prompts: tuple[Example, ...] = ()
    pairs: ClientPairs = field(default_factory=ClientPairs)


class Alignment:
    """Alignment of clients, each to its own mixture of two rewards, in stacked passes.

    A client learns here what it would learn alone. The policy that keeps it in bounds is the model without LoRA, which
    all clients share and which needs no second copy.

    Args:
        model: with the adapters of the clients, in their order. LoRA alone is trained.
        clients: wishes and training data.
        rewards: both rewards; for DPO only what evaluations record, and None without any.
        settings, seed: of the stage.
    Raises: ConfigError where these do not fit each other; DataError if a client has nothing to learn from.
    """

    def __init__(
        self, model: Model, clients: Sequence[Client], rewards: Rewards | None, settings: AlignmentSettings, seed: int
    ) -> None:
        objective, lambda_K = settings.objective, np.array([client.helpful for client in clients], np.float64)
        _check_clients(model.bank.local_LK.shape[1], clients)
        self.learner = Learner(model, settings, seed, [client.identity for client in clients])
        self.clients, self.rewards = tuple(clients), rewards
        if objective.learns_from == "pairs":
            _check_pairs(clients)
            self.learning = PreferenceLearning(self.learner, objective, [c.pairs for c in clients], lambda_K)
        else:
            if missing := next((client for client in clients if not client.prompts), None):
                raise DataError(f"client {missing.identity} has no prompts to learn from")
            if rewards is None:
                raise ConfigError(f"objective {objective.kind!r} learns from rewards; give them, or choose dpo")
            self.learning = RewardLearning(self.learner, objective, [c.prompts for c in clients], rewards, lambda_K)

    @property
    def steps_done(self) -> int:
        """Steps taken so far."""
        return self.learner.steps_done

    def step(self) -> dict[str, Array]:
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
            for client, held_out in zip(self.clients, examples_by_client, strict=False):
                seen = {example.prompt for example in client.prompts} & {example.prompt for example in held_out}
                if seen:
                    raise DataError(
                        f"client {client.identity} was to be evaluated on a prompt that it is trained on; "
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


def _check_clients(num_clients: int, clients: Sequence[Client]) -> None:
    distinct = len({client.identity for client in clients})
    if not distinct == len(clients) == num_clients:
        raise ConfigError(
            f"there are {len(clients)} clients of {distinct} identities, but adapters of {num_clients}; give one "
            "for each, with an identity of its own"
        )
    for client in clients:
        if not 0 <= client.helpful <= 1:
            raise ConfigError(f"lambda of client {client.identity} is {client.helpful}; it must be between 0 and 1")


def _check_pairs(clients: Sequence[Client]) -> None:
    for client in clients:
        own, weight = client.pairs, client.helpful
        for kind, pairs, share in (("helpful", own.helpful, weight), ("harmless", own.harmless, 1 - weight)):
            if share > 0 and not pairs:
                raise DataError(
                    f"client {client.identity} has no {kind} pairs to learn from, but lambda {weight}; dpo needs them"
                )
