"""A reward model in training: its pairs, its steps, and what it gets right.

Legend: P pairs.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from wavetune.data.answer_rows import tokenise_pairs
from wavetune.data.batching import Batching, batch_indices, collate
from wavetune.data.examples import PreferenceCorpus
from wavetune.data.settings import sample
from wavetune.data.templates import TokenSet
from wavetune.errors import DataError, NumericsError
from wavetune.federation.optimise import AdamW, StackedOptimiser
from wavetune.federation.reward_models import RewardModel, reward_backbone
from wavetune.federation.rewards import RewardTraining
from wavetune.models.lora import named_matrices
from wavetune.models.resolve import ResolvedModel
from wavetune.models.reward import preference_loss, reward_bank, rewards_of
from wavetune.units import Array

NORMAL_95 = 1.959963984540054  # quantile 0.975 of the standard normal distribution


@dataclass
class Training:
    """A reward model in training and the pairs that it sees; `best` holds the adapters of the best evaluation."""

    settings: RewardTraining
    model: RewardModel
    base: ResolvedModel
    optimiser: StackedOptimiser
    train: TokenSet
    validation: TokenSet
    test: TokenSet
    seed: int
    best: dict[str, torch.Tensor] = field(default_factory=dict[str, torch.Tensor])

    @property
    def notes(self) -> tuple[str, ...]:
        """In sentences what was cut of the pairs."""
        return (*self.train.told("training"), *self.validation.told("validation"))

    def step(self, index: int) -> float:
        """One step on the pairs of that index; returns the mean loss in nats. Raises NumericsError."""
        settings, bank = self.settings, self.model.bank
        longest_P = self.train.lengths.reshape(-1, 2).max(axis=1)
        pairs = batch_indices(longest_P, Batching(settings.pairs_per_step), self.seed, 0, index)
        batch = collate(self.train, [np.stack([2 * pairs, 2 * pairs + 1], axis=1).ravel()])
        ids, lengths = torch.from_numpy(batch.input_ids), batch.lengths.tolist()
        loss, _ = preference_loss(rewards_of(self.model.backbone, bank, ids, lengths))
        loss.backward()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise NumericsError(f"step {index}: the loss of the reward model is {value}; lower the learning rate")
        self.optimiser.step_clients(self.optimiser.settings.factor(index, settings.steps))
        return value

    def margins(self, tokens: TokenSet) -> Array:
        """Reward of the chosen answer less that of the rejected one, [P]."""
        scores = self.model.score_rows([tokens.row(i).tolist() for i in range(len(tokens))])
        return scores[0::2] - scores[1::2]

    def adapters(self) -> dict[str, torch.Tensor]:
        """The tensors that a reward model consists of, by name."""
        return {name: stack.detach() for name, stack in named_matrices(self.model.bank.local)}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take adapters as `adapters` gives them."""
        for name, tensor in self.adapters().items():
            tensor.copy_(tensors[name])


def build_training(
    corpus: PreferenceCorpus, settings: RewardTraining, seed: int, device: torch.device | str, bf16: bool
) -> Training:
    """Everything that a training consists of. Raises ModelError, ConfigError or DataError as its parts do."""
    chosen = (
        sample(corpus.train, settings.train_pairs, seed, "train pairs"),
        sample(corpus.validation, settings.validation_pairs, seed, "validation pairs"),
        sample(corpus.test or corpus.validation, settings.test_pairs, seed, "test pairs"),
    )
    if not corpus.validation:
        raise DataError(f"{corpus.name} has no validation pairs; a reward model needs some to be measured on")
    backbone, tokenizer, base = reward_backbone(settings.model, settings.targets, device, bf16)
    longest = min(settings.max_tokens, backbone.max_tokens or settings.max_tokens)
    bank = reward_bank(backbone, settings.rank, settings.alpha, seed)
    model = RewardModel(f"{corpus.kind} on {corpus.name}", backbone, tokenizer, bank, longest)
    optimiser = StackedOptimiser(bank, AdamW(learning_rate=settings.learning_rate))
    train, validation, test = (tokenise_pairs(pairs, tokenizer, longest) for pairs in chosen)
    return Training(settings, model, base, optimiser, train, validation, test, seed)


@dataclass(frozen=True)
class Accuracy:
    """How many of how many were right."""

    correct: float
    total: int

    @property
    def share(self) -> float:
        """Share that was right, 0 to 1."""
        return self.correct / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """95% confidence interval of Wilson, which stays within 0 to 1 and serves small samples too.

        (p + z^2/2n -+ z sqrt(p (1 - p)/n + z^2/4n^2)) / (1 + z^2/n) with z = 1.96.
        Source: Wilson, JASA 22, 1927.

        >>> [round(end, 3) for end in Accuracy(8, 10).interval]
        [0.49, 0.943]
        """
        p, n, z2 = self.share, self.total, NORMAL_95**2
        centre, half = p + z2 / (2 * n), NORMAL_95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n**2))
        return max(0.0, (centre - half) / (1 + z2 / n)), min(1.0, (centre + half) / (1 + z2 / n))


def share_right(margin_P: Array) -> Accuracy:
    """How many pairs have a higher reward for the chosen answer; a tie counts half."""
    return Accuracy(float((margin_P > 0).sum() + 0.5 * (margin_P == 0).sum()), len(margin_P))
