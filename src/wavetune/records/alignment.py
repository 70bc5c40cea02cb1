"""The second stage in files: lines of alignment.jsonl, answers before and after, and its part of the summary.

Legend: K clients.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from wavetune.records.fields import BESIDE, OPTIONAL, UNKNOWN
from wavetune.records.rounds import Lost

ByName = dict[str, tuple[float, ...]]
"""Lists by name: "helpful_K", "true_safe_K", "mixed_reward_K", ... with the mean of each client."""


@dataclass(frozen=True)
class Gain:
    """Mean over prompts, in standard deviations of all answers before, and half its 95 % interval."""

    mean: float = UNKNOWN
    half_width_95: float = UNKNOWN


@dataclass(frozen=True)
class AlignmentInfo:
    """What the second stage came to, on held-out prompts."""

    lambdas: tuple[float, ...] = ()
    objective: str = ""
    steps: int | None = None
    before: ByName = field(default_factory=ByName)
    after: ByName = field(default_factory=ByName)
    scale: dict[str, float] = field(default_factory=dict[str, float])  # sd of either reward before
    mixed_gain_K: tuple[Gain, ...] = ()


@dataclass(frozen=True)
class Charged:
    """What a step of alignment took."""

    delay_s: float = UNKNOWN
    energy_j: float = UNKNOWN


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
    lost: tuple[Lost, ...] | None = field(default=None, metadata=OPTIONAL)  # of devices
    measured: AlignmentMeasured = field(default_factory=AlignmentMeasured, metadata=OPTIONAL)


@dataclass(frozen=True)
class Answers:
    """One client's answers to held-out prompts and their scores, by name and in the order of the prompts."""

    prompts: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    scores: ByName = field(default_factory=ByName)


@dataclass(frozen=True)
class HeldOut:
    """alignment_before.json or alignment_after.json: every client's answers on own and foreign domains."""

    own: tuple[Answers, ...] = ()
    foreign: tuple[Answers, ...] = ()
