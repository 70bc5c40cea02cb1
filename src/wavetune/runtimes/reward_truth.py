"""How a reward relates to the truth that it stands for, where there is one: on the embedded concierge."""

from typing import Any

import numpy as np

from wavetune.data.concierge import QUALITIES, answer, situations
from wavetune.data.concierge_truth import helpful, safe
from wavetune.federation.answer_scores import Reward
from wavetune.units import Array

SITUATIONS = 50


def correlation_with_truth(reward: Reward, seed: int) -> dict[str, Any]:
    """Pearson correlation of a reward with both exact scores, over answers of all four qualities.

    The situations are of the test part: no hotel and no guest of theirs occurs in training.

    Args:
        reward: what is measured.
        seed: of the situations.
    Returns: `helpful` and `safe` (None where the reward is constant) and the number of `answers`.
    """
    drawn = situations(SITUATIONS, seed, "test", "reward truth")
    examples = [situation.example for situation in drawn for _ in QUALITIES]
    answers = [answer(situation, quality, seed) for situation in drawn for quality in QUALITIES]
    scores = reward.score(examples, answers)
    return {
        "helpful": _correlation(scores, helpful(examples, answers)),
        "safe": _correlation(scores, safe(examples, answers)),
        "answers": len(answers),
    }


def _correlation(a: Array, b: Array) -> float | None:
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else None
