"""Group relative policy optimisation (Shao et al., arXiv 2402.03300): no value head, the group is the baseline.

Legend: G groups, M answers of a group.
"""

from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Le, Lt

from wavetune.federation.objectives.alignment import AlignmentObjective
from wavetune.federation.objectives.kl import KlControl
from wavetune.units import Array, Ints


@dataclass(frozen=True)
class Grpo(AlignmentObjective):
    """Several answers to each prompt; an answer's advantage is its reward relative to its group's.

    The divergence from the reference is a term of the loss, the estimate of `kl_estimate` at every token.
    """

    divergence_in_loss = True
    group_size: Annotated[int, Ge(2)] = 4
    clip: Annotated[float, Gt(0), Lt(1)] = 0.2
    entropy_coefficient: Annotated[float, Ge(0), Le(1e6)] = 0.0
    epochs: Annotated[int, Ge(1)] = 1
    minibatches: Annotated[int, Ge(1)] = 1
    kl: KlControl = field(default_factory=KlControl)

    @property
    def answers_to_each_prompt(self) -> int:
        """The group."""
        return self.group_size

    def advantages(
        self, reward_S: Array, penalty_P: Array, value_P: Array, client_P: Ints, length_S: Ints
    ) -> tuple[Array, Array]:
        """An answer's advantage at each of its tokens; values are not learned."""
        groups = group_advantages(reward_S.reshape(-1, self.group_size))
        return np.repeat(groups.ravel(), length_S), np.zeros_like(value_P)


def group_advantages(reward_GM: Array) -> Array:
    """Rewards less their group's mean, over its standard deviation; zeros where a group's are equal. `[G, M]`.

    >>> group_advantages(np.array([[1.0, 3.0], [0.7, 0.7]])).tolist()
    [[-1.0, 1.0], [0.0, 0.0]]
    """
    centred = reward_GM - reward_GM.mean(1, keepdims=True)
    spread = centred.std(1, keepdims=True)
    return np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 1e-8)
