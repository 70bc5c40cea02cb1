"""What a run that goes on, or ends, takes from the files it wrote: the least that each must hold."""

from dataclasses import dataclass, field
from typing import Any

Amounts = dict[str, float | list[float]]
Texts = list[str]


@dataclass(frozen=True)
class Begun:
    """state.json: what was known before the first round."""

    evaluation: dict[str, Any]
    validation_loss: float
    answers: Texts
    command: str


@dataclass(frozen=True)
class Charged:
    """Seconds and joules of a round, in all and by phase."""

    delay_s: float
    energy_j: float
    phases: Amounts
    energy: Amounts


@dataclass(frozen=True)
class Trained:
    """A line of rounds.jsonl."""

    validation_loss: float | None
    samples: float
    tokens: float
    wall_s: float
    charged: Charged
    metered_bits: dict[str, float]
    aggregation_error: float | None


@dataclass(frozen=True)
class Digest:
    """Of rows of data."""

    rows: int
    sha256: str


@dataclass(frozen=True)
class DataDigests:
    """Of both sets of rows."""

    training: Digest
    validation: Digest


@dataclass(frozen=True)
class Inputs:
    """inputs.json."""

    data: DataDigests
    model: dict[str, str]
    channel: dict[str, str] = field(default_factory=dict[str, str])
    recipe: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class RewardPlan:
    """A reward model's training.json."""

    pairs: Digest


@dataclass(frozen=True)
class RewardStep:
    """An entry of a reward model's progress.json."""

    step: int
    loss: float
    validation_loss: float
    validation_accuracy: float
    seconds: float


@dataclass(frozen=True)
class Deployed:
    """deployment.json: the name under which devices know a run."""

    run: str
