"""The rewards that clients are aligned by, and each client's mixture of them.

Legend: K clients, S samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from wavetune.data.examples import Example
from wavetune.errors import NumericsError
from wavetune.federation.objectives.standardise import Moments
from wavetune.records.alignment import MIXED
from wavetune.units import Array, Ints

if TYPE_CHECKING:
    from wavetune.federation.alignment.answers import Answered

Score = Callable[[Sequence[Example], Sequence[str]], Any]  # (prompts, answers) -> one number each


@dataclass(frozen=True)
class Rewards:
    """The two rewards that are mixed, and scores that are only recorded (the ground truth, where it is known)."""

    helpful: Score
    safe: Score
    truth: Mapping[str, Score] = field(default_factory=dict[str, Score])

    def score(self, answered: Answered) -> dict[str, Array]:
        """Every score of every answer, by the name under which it is recorded: `[S]` each.

        Answers that were decoded together are scored together. Raises: NumericsError if a score is not one finite
        number for each answer.
        """
        named = {"helpful": self.helpful, "safe": self.safe} | {f"true_{n}": s for n, s in self.truth.items()}
        return {
            name: np.concatenate(
                [_scores(name, score, answered.examples[part], answered.texts[part]) for part in answered.together]
            )
            for name, score in named.items()
        }


def _scores(name: str, score: Score, examples: Sequence[Example], texts: Sequence[str]) -> Array:
    values_S = np.asarray(score(examples, texts), np.float64)
    if values_S.shape != (len(texts),) or not np.isfinite(values_S).all():
        raise NumericsError(
            f"the score {name!r} must give one finite number for each of {len(texts)} answers, "
            f"but gave {values_S.shape} with {int((~np.isfinite(values_S)).sum())} not finite"
        )
    return values_S


@dataclass
class Mixture:
    """Each client's weight of the helpful reward, and what each client has seen of both so far."""

    lambda_K: Array
    moments: list[dict[str, Moments]]

    @classmethod
    def of(cls, lambda_K: Array) -> Mixture:
        """Before anything has been seen."""
        return cls(lambda_K, [{name: Moments() for name in MIXED} for _ in lambda_K])

    def mix(self, scores: Mapping[str, Array], client_S: Ints) -> Array:
        """lambda helpful + (1 - lambda) safe, each in the standard deviations of what its client has seen. `[S]`.

        These answers are counted in before, so that the first have a scale too.
        """
        mixed_S = np.zeros(len(client_S))
        for client, (weight, seen) in enumerate(zip(self.lambda_K.tolist(), self.moments, strict=True)):
            own = client_S == client
            for name, share in zip(MIXED, (weight, 1 - weight), strict=True):
                seen[name] = seen[name].including(scores[name][own])
                mixed_S[own] += share * seen[name].standardise(scores[name][own])
        return mixed_S

    def numbers(self) -> Array:
        """All moments, `[K, 2, 3]`."""
        rows = [[(m.count, m.mean, m.squares) for m in seen.values()] for seen in self.moments]
        return np.array(rows, np.float64)

    def restore(self, numbers: Array) -> None:
        """Continue from what `numbers` returned."""
        for seen, rows in zip(self.moments, numbers, strict=True):
            seen.update({name: Moments(*map(float, row)) for name, row in zip(MIXED, rows, strict=True)})
