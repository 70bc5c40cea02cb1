"""How accurately clients solve their local problem, and what that costs in local iterations and saves in rounds.

Source: Yang et al. (arXiv 1911.02417), whose model FedsLLM (arXiv 2407.09250) builds on, as reconstructed by us.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt, Lt

from wavetune.errors import ConfigError

Positive = Annotated[float, Gt(0)]
_MOST = 1e100


@dataclass(frozen=True)
class LearningModel:
    """How local accuracy turns into work, for an L-smooth, gamma-strongly convex loss.

    v = 2 / ((2 - L delta) delta gamma), a = 2 L^2 / (gamma^2 xi) ln(1 / eps0): `smoothness` L, `convexity` gamma,
    `step_size` delta of the local gradient steps, `relaxation` xi of the local problem, `global_accuracy` eps0. The
    defaults are those remembered from Yang et al., with L = gamma = 1. The loss of a language model is not strongly
    convex, so there v and a are a model of learning, not a guarantee.

    >>> round(LearningModel().iterations_scale, 2), round(LearningModel().rounds_scale, 1)
    (10.53, 138.2)
    """

    smoothness: Positive = 1.0
    convexity: Positive = 1.0
    step_size: Positive = 0.1
    relaxation: Positive = 0.1
    global_accuracy: Annotated[float, Gt(0), Lt(1)] = 1e-3

    def __post_init__(self) -> None:
        if not self.smoothness * self.step_size < 2:
            raise ConfigError(
                f"LearningModel.step_size is {self.step_size:g} but must be below 2 / smoothness = "
                f"{2 / self.smoothness:g}, where gradient steps converge; lower it"
            )
        for what, scale in (("local iterations", self.iterations_scale), ("rounds", self.rounds_scale)):
            if not 1 / _MOST < scale < _MOST:
                raise ConfigError(
                    f"LearningModel has {scale:g} as the scale of its {what}, which must be from {1 / _MOST:g} to "
                    f"{_MOST:g}; bring smoothness, convexity, step_size and relaxation closer together"
                )

    @property
    def iterations_scale(self) -> float:
        """v: local iterations that halve the local error."""
        return 2 / (2 - self.smoothness * self.step_size) / self.step_size / self.convexity

    @property
    def rounds_scale(self) -> float:
        """a: rounds to the global accuracy with exact local solutions."""
        condition = self.smoothness / self.convexity
        return 2 * condition * condition / self.relaxation * -math.log(self.global_accuracy)

    def iterations(self, accuracy: float) -> float:
        """Local iterations v log2(1 / eta), a real number."""
        return -self.iterations_scale * math.log2(accuracy)

    def accuracy(self, iterations: float) -> float:
        """The local accuracy that so many iterations reach."""
        return 2 ** (-iterations / self.iterations_scale)

    def rounds(self, iterations: float) -> float:
        """Rounds a / (1 - eta) with so many local iterations, a real number."""
        return self.rounds_scale / -math.expm1(-iterations / self.iterations_scale * math.log(2))
