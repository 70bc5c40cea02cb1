"""An accuracy with its uncertainty."""

from dataclasses import dataclass
from math import sqrt

from wavetune.errors import ConfigError

NORMAL_95 = 1.959963984540054  # quantile 0.975 of the standard normal distribution


@dataclass(frozen=True)
class Accuracy:
    """How many of how many were right."""

    correct: float
    total: int

    def __post_init__(self) -> None:
        if self.total < 1 or not 0 <= self.correct <= self.total:
            raise ConfigError(f"{self.correct} of {self.total} is no accuracy; give 0 to n of n, n 1 or more")

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
        centre, half = p + z2 / (2 * n), NORMAL_95 * sqrt(p * (1 - p) / n + z2 / (4 * n**2))
        return max(0.0, (centre - half) / (1 + z2 / n)), min(1.0, (centre + half) / (1 + z2 / n))
