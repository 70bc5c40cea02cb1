"""Learning from rewards: clients answer prompts of their own, and learn from what the answers were worth (PPO, GRPO).

Legend: K clients, S samples, P positions of all answers, T longest answer.
"""

# pyright: reportUnknownMemberType=false
# (the stubs of torch leave parts of their types open)

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wavetune.data.examples import Example
from wavetune.federation.alignment.answers import Sample, answer_tokens, answers_of, measured, passes
from wavetune.federation.alignment.learner import Learner
from wavetune.federation.alignment.rewards import Mixture, Rewards
from wavetune.federation.objectives import AlignmentObjective
from wavetune.federation.objectives.kl import kl_estimate
from wavetune.federation.objectives.ppo import clipped_surrogate, value_loss
from wavetune.seeds import stream
from wavetune.units import Array, Ints


@dataclass(frozen=True)
class Tokens:
    """What is learned from at each token of the answers, one array `[P]` each."""

    client: Ints
    old_log_prob: Array
    reference: Array
    advantage: Array
    target: Array

    def at(self, index_P: Ints | slice) -> Tokens:
        """Some of them."""
        return Tokens(*(values[index_P] for values in vars(self).values()))


class RewardLearning:
    """PPO or GRPO of all clients in stacked passes."""

    def __init__(
        self,
        learner: Learner,
        objective: AlignmentObjective,
        prompts: Sequence[Sequence[Example]],
        rewards: Rewards,
        lambda_K: Array,
    ) -> None:
        self.learner, self.objective, self.prompts, self.rewards = learner, objective, prompts, rewards
        self.mixture = Mixture.of(lambda_K)
        self.kl_coefficient_K = np.full(learner.num_clients, objective.kl.start)

    def step(self) -> dict[str, Array]:
        """One step of every client; what it was like, by name, `[K]` each."""
        learner = self.learner
        exact = learner.backbone.exact  # else it matters what a token goes through the model with
        answered = answers_of(learner, self._own_prompts(), "alignment answers", learner.steps_done, measure=exact)
        scores = self.rewards.score(answered)
        samples, client_S = answered.samples, np.array([sample.client for sample in answered.samples])
        lengths_S = np.array([len(sample.answer) for sample in samples])
        client_P = np.repeat(client_S, lengths_S)
        room, temperature = learner.tokens_per_pass, learner.settings.temperature
        policy_P, entropy_P, value_P = (
            answered.measured
            if answered.measured is not None
            else measured(learner.backbone, learner.policy, samples, room, learner.values, temperature)
        )
        reference_P, _, _ = measured(learner.backbone, learner.reference, samples, room, None, temperature)
        rounding = 1e3 * torch.finfo(learner.backbone.dtype).eps
        alike_P = np.abs(policy_P - reference_P) < rounding
        policy_P: Array = np.where(alike_P, reference_P, policy_P)  # where they are one
        reward_S = self.mixture.mix(scores, client_S)
        penalty_P = self.kl_coefficient_K[client_P] * (policy_P - reference_P)
        advantage_P, target_P = self.objective.advantages(reward_S, penalty_P, value_P, client_P, lengths_S)
        learned = self._learn(samples, Tokens(client_P, policy_P, reference_P, advantage_P, target_P))
        kl_P = kl_estimate(torch.from_numpy(policy_P), torch.from_numpy(reference_P)).numpy()
        metrics = {
            "reward": learner.means(reward_S, client_S),
            **{name: learner.means(values_S, client_S) for name, values_S in scores.items()},
            "kl": learner.means(kl_P, client_P),
            "kl_coefficient": self.kl_coefficient_K,
            "answer_tokens": learner.means(lengths_S, client_S),
            "ended": learner.means(np.array(answered.ended), client_S),
            "entropy": learner.means(entropy_P, client_P),
            **learned,
        }
        self.kl_coefficient_K = self.objective.kl.next(self.kl_coefficient_K, metrics["kl"])
        return learner.checked(metrics)

    def _own_prompts(self) -> list[list[Example]]:
        learner, count = self.learner, self.learner.settings.prompts_per_step
        copies = learner.settings.answers_per_prompt
        return [
            [own[row] for row in learner.drawn(len(own), client, count, learner.steps_done) for _ in range(copies)]
            for client, own in enumerate(self.prompts)
        ]

    def _learn(self, samples: Sequence[Sample], tokens: Tokens) -> dict[str, Array]:
        """Update all clients from their answers; means over all updates, by client."""
        objective, updates = self.objective, list[dict[str, Array]]()
        lengths_S = np.array([len(sample.answer) for sample in samples])
        sample_P = np.repeat(np.arange(len(samples)), lengths_S)
        for epoch in range(objective.epochs):
            for rows in self._minibatches(samples, epoch):
                chosen = [samples[row] for row in rows]
                updates.append(self._update(chosen, tokens.at(np.flatnonzero(np.isin(sample_P, rows)))))
        return {name: np.mean([update[name] for update in updates], axis=0) for name in updates[0]}

    def _minibatches(self, samples: Sequence[Sample], epoch: int) -> Iterator[list[int]]:
        """Rows of the samples, of every client an equal share, client by client."""
        learner, count = self.learner, self.objective.minibatches
        parts: list[list[int]] = [[] for _ in range(count)]
        for client, identity in enumerate(learner.client_ids):
            own = [row for row, sample in enumerate(samples) if sample.client == client]
            key = (learner.seed, f"alignment minibatches {epoch}", learner.steps_done, identity)
            order: list[int] = stream(*key).permutation(len(own)).tolist()
            for place, part in enumerate(parts):
                part.extend(own[i] for i in sorted(order[place::count]))
        yield from parts

    def _update(self, samples: Sequence[Sample], tokens: Tokens) -> dict[str, Array]:
        """One optimiser step of all clients on some of their answers."""
        learner, found, start = self.learner, list[dict[str, Tensor]](), 0
        weight_P = 1 / np.bincount(tokens.client, minlength=learner.num_clients)[tokens.client]
        for part in passes(samples, learner.tokens_per_pass):
            span = slice(start, start + sum(len(sample.answer) for sample in samples[part]))
            found.append(self._backward(samples[part], tokens.at(span), learner.tensor(weight_P[span])))
            start = span.stop
        learner.advance()
        joined = {name: torch.cat([piece[name] for piece in found]).double().cpu().numpy() for name in found[0]}
        return {name: learner.means(values_P, tokens.client) for name, values_P in joined.items()}

    def _backward(self, samples: Sequence[Sample], tokens: Tokens, weight_P: Tensor) -> dict[str, Tensor]:
        """Forward and backward of one pass, every client's loss the mean over its own tokens."""
        learner, objective = self.learner, self.objective
        temperature = learner.settings.temperature
        now = answer_tokens(learner.backbone, learner.policy, samples, learner.values, temperature)
        old_P, advantage_P = learner.tensor(tokens.old_log_prob), learner.tensor(tokens.advantage)
        surrogate_P, clipped_P = clipped_surrogate(now.log_prob_P, old_P, advantage_P, objective.clip)
        loss_P = surrogate_P - objective.entropy_coefficient * now.entropy_P
        if objective.divergence_in_loss:
            divergence_P = kl_estimate(now.log_prob_P, learner.tensor(tokens.reference))
            loss_P = loss_P + learner.tensor(self.kl_coefficient_K[tokens.client]) * divergence_P
        metrics = {"policy_loss": loss_P.detach(), "clip_fraction": clipped_P.float()}
        if now.value_P is not None:
            errors_P = value_loss(now.value_P, learner.tensor(tokens.target))
            loss_P, metrics["value_loss"] = loss_P + errors_P, errors_P.detach()
        (loss_P * weight_P).sum().backward()
        return metrics

    def state(self) -> dict[str, Tensor]:
        """What the next step depends on beside the learner."""
        return {
            "kl_coefficient": torch.from_numpy(self.kl_coefficient_K.copy()),
            "reward_moments": torch.from_numpy(self.mixture.numbers()),
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned."""
        self.kl_coefficient_K = state["kl_coefficient"].cpu().numpy().copy()
        self.mixture.restore(state["reward_moments"].cpu().numpy())
