"""Running mean and spread of a reward, so that rewards of unlike scales can be mixed by a client's weights."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np

from wavetune.units import Array


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared deviations of all values so far."""

    count: float = 0.0
    mean: float = 0.0
    squares: float = 0.0

    def including(self, values: Array) -> Moments:
        """Moments of the values so far and these (Chan, Golub and LeVeque 1983).

        >>> Moments().including(np.array([1.0, 3.0])).including(np.array([5.0])).mean
        3.0
        """
        if not len(values):
            return self
        count, gap = self.count + len(values), float(values.mean()) - self.mean
        squares = self.squares + float(((values - values.mean()) ** 2).sum())
        return Moments(
            count, self.mean + gap * len(values) / count, squares + gap**2 * self.count * len(values) / count
        )

    @property
    def deviation(self) -> float:
        """Standard deviation."""
        return sqrt(self.squares / self.count) if self.count else 0.0

    def standardise(self, values: Array) -> Array:
        """Values less the mean, in standard deviations; zeros while all values have been equal."""
        return (values - self.mean) / self.deviation if self.deviation > 1e-8 else np.zeros_like(values)
