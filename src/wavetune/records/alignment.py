"""The second stage in files: lines of alignment.jsonl, answers before and after, and its part of the summary.

Legend: K clients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from wavetune.estimate import Estimate
from wavetune.records.fields import BESIDE, OPTIONAL, UNKNOWN
from wavetune.records.rounds import Bits, Lost

MIXED = ("helpful", "safe")
"""The rewards that each client mixes."""
ByName = dict[str, tuple[float, ...]]
"""Lists by name: "helpful_K", "true_safe_K", "mixed_reward_K", ... with the mean of each client."""


@dataclass(frozen=True)
class Gain:
    """Mean over prompts, in standard deviations of all answers before, and half its 95 % interval."""

    mean: float = UNKNOWN
    half_width_95: float = UNKNOWN


@dataclass(frozen=True)
class Charged:
    """What a step of alignment took, or all of them."""

    delay_s: float = UNKNOWN
    energy_j: float = UNKNOWN


@dataclass(frozen=True)
class AlignmentInfo:
    """What the second stage came to, on held-out prompts, and what its steps took beside the rounds."""

    lambdas: tuple[float, ...] = ()
    objective: str = ""
    steps: int | None = None
    before: ByName = field(default_factory=ByName)
    after: ByName = field(default_factory=ByName)
    scale: dict[str, float] = field(default_factory=dict[str, float])  # sd of either reward before
    mixed_gain_K: tuple[Gain, ...] = ()
    charged: Charged = field(default_factory=Charged, metadata=OPTIONAL)


@dataclass(frozen=True)
class AlignmentMeasured:
    """What a step of alignment took on devices."""

    align_s_K: tuple[float, ...] = ()


@dataclass(frozen=True)
class AlignmentStep:
    """One line of alignment.jsonl.

    `metrics` are means over each client's training prompts, by name; in a file they stand beside the other fields.
    """

    step: int
    metrics: ByName = field(default_factory=ByName, metadata=BESIDE)
    charged: Charged = field(default_factory=Charged)
    wall_s: float = UNKNOWN
    evaluation: ByName = field(default_factory=ByName, metadata=OPTIONAL)  # held-out prompts, at some steps
    metered_bits: Bits = field(default_factory=dict[str, float], metadata=OPTIONAL)  # what crossed: nothing is due
    lost: tuple[Lost, ...] | None = field(default=None, metadata=OPTIONAL)  # of devices
    measured: AlignmentMeasured = field(default_factory=AlignmentMeasured, metadata=OPTIONAL)


@dataclass(frozen=True)
class Answers:
    """One client's answers to held-out prompts and their scores, by name and in the order of the prompts.

    Of a client on a device of its own the servers have no answers, and no scores where it did not report.
    """

    prompts: tuple[str, ...]
    answers: tuple[str, ...] = ()
    scores: ByName = field(default_factory=ByName)

    def mean(self, name: str) -> Estimate:
        """Mean of a score with its interval; NaN where they are not known."""
        return Estimate.of(self.scores.get(name, ()))


@dataclass(frozen=True)
class HeldOut:
    """alignment_before.json or alignment_after.json: every client's answers on own and foreign domains."""

    own: tuple[Answers, ...]
    foreign: tuple[Answers, ...] = ()

    def scale(self) -> dict[str, float]:
        """Standard deviation of either reward over all clients' answers to their own prompts; 0 where none is known."""
        known = [one.scores for one in self.own if one.scores]
        return {name: float(np.concatenate([s[name] for s in known]).std()) if known else 0.0 for name in MIXED}

    def mixed_gain(self, before: HeldOut, lambdas: Sequence[float]) -> tuple[Gain, ...]:
        """By how much each client's mixture of rewards on its own prompts has risen.

        Both rewards are in standard deviations of all clients' answers before; prompts are compared one by one.
        """
        gains, scale = list[Gain](), before.scale()
        for weight, was, now in zip(lambdas, before.own, self.own, strict=True):
            if not (was.scores and now.scores):
                gains.append(Gain())
                continue
            gain_S = np.zeros(len(now.prompts))
            for name, share in zip(MIXED, (weight, 1 - weight), strict=True):
                risen_S = np.array(now.scores[name]) - np.array(was.scores[name])
                gain_S += share * risen_S / max(scale[name], 1e-8)
            found = Estimate.of(gain_S.tolist())
            gains.append(Gain(found.mean, found.half_width))
        return tuple(gains)
