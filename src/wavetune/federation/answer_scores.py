"""Scores of answers, and what gives them.

Legend: N answers.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from wavetune.data.examples import Example
from wavetune.errors import NumericsError
from wavetune.units import Array


class Reward(Protocol):
    """What scores answers."""

    def score(self, examples: Sequence[Example], answers: Sequence[str]) -> Array:
        """Score of each answer to its example's prompt, [N]; higher is better, on a scale of its own."""
        ...


def check_finite(scores: Array, who: str, answers: Sequence[str]) -> Array:
    """The scores. Raises NumericsError that names the first answer whose score is not finite."""
    wrong = np.flatnonzero(~np.isfinite(scores))
    if len(wrong):
        raise NumericsError(f"{who} gave {scores[wrong[0]]} to the answer {answers[wrong[0]][:60]!r}")
    return scores
