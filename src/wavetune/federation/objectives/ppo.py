"""Proximal policy optimisation (Schulman et al., arXiv 1707.06347) on the tokens of answers.

Legend: S samples, T longest answer, P positions of all answers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import numpy as np
from annotated_types import Ge, Gt, Le, Lt

from wavetune.federation.objectives.alignment import AlignmentObjective
from wavetune.federation.objectives.kl import KlControl
from wavetune.units import Array, Ints

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Ppo(AlignmentObjective):
    """Clipped policy updates with a value head and generalised advantages.

    A token's reward is minus the KL coefficient times its log-ratio to the reference; the last token of an answer also
    earns the answer's reward. Each prompt is answered `answers_per_prompt` times. Every step's answers are learned from
    `epochs` times, in `minibatches` parts. The value head sees detached hidden states and has an optimiser of its own,
    so its weight in the loss is its learning rate.
    """

    answers_per_prompt: Annotated[int, Ge(1)] = 4
    clip: Annotated[float, Gt(0), Lt(1)] = 0.2
    gae_lambda: Annotated[float, Ge(0), Le(1)] = 0.95
    gamma: Annotated[float, Gt(0), Le(1)] = 1.0
    value_learning_rate: Annotated[float, Ge(1e-12), Le(1e30)] = 4e-3
    entropy_coefficient: Annotated[float, Ge(0), Le(1e6)] = 0.0
    epochs: Annotated[int, Ge(1)] = 2
    minibatches: Annotated[int, Ge(1)] = 1
    kl: KlControl = field(default_factory=KlControl)

    @property
    def answers_to_each_prompt(self) -> int:
        """As configured."""
        return self.answers_per_prompt

    def advantages(
        self, reward_S: Array, penalty_P: Array, value_P: Array, client_P: Ints, length_S: Ints
    ) -> tuple[Array, Array]:
        """Generalised advantages, of every client's own mean and spread; the penalty is paid at every token."""
        inside_ST = np.arange(int(length_S.max()))[None] < length_S[:, None]
        reward_ST, value_ST = np.zeros(inside_ST.shape), np.zeros(inside_ST.shape)
        reward_ST[inside_ST], value_ST[inside_ST] = -penalty_P, value_P
        reward_ST[np.arange(len(length_S)), length_S - 1] += reward_S
        plain_P = generalised_advantages(reward_ST, value_ST, length_S, self.gamma, self.gae_lambda)[inside_ST]
        advantage_P = np.zeros_like(plain_P)
        for client in np.unique(client_P):
            advantage_P[client_P == client] = whitened(plain_P[client_P == client])
        return advantage_P, plain_P + value_P


def generalised_advantages(reward_ST: Array, value_ST: Array, length_S: Ints, gamma: float, gae_lambda: float) -> Array:
    """Advantage of each token, zero beyond an answer's end. `[S, T]`.

    A_t = d_t + gamma lambda A_{t+1} with d_t = r_t + gamma V_{t+1} - V_t, and V = A = 0 after the last token
    (Schulman et al., arXiv 1506.02438, eq. 16). Advantage plus value is the target of the value head.

    >>> generalised_advantages(np.array([[0.0, 1.0]]), np.array([[0.5, 0.5]]), np.array([2]), 1.0, 1.0).tolist()
    [[0.5, 0.5]]
    """
    advantage_ST = np.zeros_like(reward_ST)
    later_S, next_value_S = np.zeros(len(length_S)), np.zeros(len(length_S))
    for t in reversed(range(reward_ST.shape[1])):
        inside_S = (length_S > t).astype(np.float64)
        surprise_S = reward_ST[:, t] + gamma * next_value_S - value_ST[:, t]
        later_S = inside_S * (surprise_S + gamma * gae_lambda * later_S)
        next_value_S = inside_S * value_ST[:, t]
        advantage_ST[:, t] = later_S
    return advantage_ST


def whitened(values: Array) -> Array:
    """Values less their mean, over their standard deviation; zeros where all are equal.

    >>> whitened(np.array([1.0, 3.0])).tolist(), whitened(np.array([0.7, 0.7])).tolist()
    ([-1.0, 1.0], [0.0, 0.0])
    """
    spread = values.std()
    return (values - values.mean()) / spread if spread > 1e-8 else np.zeros_like(values)


def clipped_surrogate(
    log_prob_P: Tensor, old_log_prob_P: Tensor, advantage_P: Tensor, clip: float
) -> tuple[Tensor, Tensor]:
    """Loss of each token, -min(q A, clip(q, 1 - clip, 1 + clip) A) with q = policy / old policy (eq. 7).

    Returns: the loss `[P]`, and where clipping took the gradient away `[P]`.
    """
    ratio = (log_prob_P - old_log_prob_P).exp()
    plain, limited = ratio * advantage_P, ratio.clamp(1 - clip, 1 + clip) * advantage_P
    return -plain.minimum(limited), limited < plain


def value_loss(value_P: Tensor, target_P: Tensor) -> Tensor:
    """Squared error of each value. `[P]`."""
    return (value_P - target_P).square()
