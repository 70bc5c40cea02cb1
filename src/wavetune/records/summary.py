"""summary.json and samples.json: a finished run in numbers, and what its model answers before and after.

Legend: K clients.
"""

from dataclasses import dataclass, field

from wavetune.records.alignment import AlignmentInfo
from wavetune.records.fields import OPTIONAL, UNKNOWN
from wavetune.records.rounds import Bits, Energy, Judged, Phases, Spent


@dataclass(frozen=True)
class ModelInfo:
    """The base model and where its weights come from."""

    name: str = ""
    note: str = ""
    parameters: float = UNKNOWN


@dataclass(frozen=True)
class DataInfo:
    """The data and how it was spread over the clients."""

    name: str = ""
    train_samples: float = UNKNOWN
    validation_samples: float = UNKNOWN
    partition: str = ""
    notes: tuple[str, ...] = ()  # what was drawn, held out, dropped or cut
    dropped: int | None = None
    rows: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])


@dataclass(frozen=True)
class Change:
    """A measure before the first and after the last round."""

    before: float = UNKNOWN
    after: float = UNKNOWN


@dataclass(frozen=True)
class PlanInfo:
    """What the planner promised, what the baselines would, and what 10 % more of each resource would save.

    The delays are of `rounds` rounds, as many as the plan counts to the target.
    """

    delay_s: float = UNKNOWN
    lower_bound_s: float = UNKNOWN
    cut_K: tuple[int, ...] = ()
    rank_K: tuple[int, ...] = ()
    rounds: float = field(default=UNKNOWN, metadata=OPTIONAL)
    method: str = ""
    baselines: dict[str, float] = field(default_factory=dict[str, float], metadata=OPTIONAL)
    bottleneck: str = field(default="", metadata=OPTIONAL)
    savings: dict[str, float] = field(default_factory=dict[str, float], metadata=OPTIONAL)


@dataclass(frozen=True)
class Aggregation:
    """The mixing rule and the relative Frobenius error of its product."""

    name: str = ""
    error: float = UNKNOWN


@dataclass(frozen=True)
class Trainable:
    """Trainable parameters on either side of the cut."""

    client: float = UNKNOWN
    server: float = UNKNOWN


@dataclass(frozen=True)
class Judgement:
    """Evaluation of the untouched model and of the trained ones."""

    before: Judged = field(default_factory=Judged)
    after: Judged = field(default_factory=Judged)


@dataclass(frozen=True)
class PrivacyInfo(Spent):
    """What the whole run gave away of any one client, and the mechanism."""

    clip_norm: float | None = None
    noise_multiplier: float = UNKNOWN
    noise: str = ""


@dataclass(frozen=True)
class Summary:
    """summary.json; the default is what is known of a run without one. `further` are phases of the method, by kind."""

    status: str = ""
    recipe: str = ""
    method: str = ""
    seed: int | None = None
    model: ModelInfo = field(default_factory=ModelInfo)
    data: DataInfo = field(default_factory=DataInfo)
    rounds: int | None = None
    local_steps: int | None = None
    num_clients: int | None = None
    precision: str = ""
    device: str = ""
    validation_loss: Change = field(default_factory=Change)
    perplexity: Change | None = None  # where text is learned
    evaluation: Judgement = field(default_factory=Judgement)
    personal: bool = False
    full_model_bits: float = UNKNOWN
    upload_bits_K: tuple[float, ...] = ()
    all_adapters_bits_K: tuple[float, ...] = ()
    alignment: AlignmentInfo = field(default_factory=AlignmentInfo, metadata=OPTIONAL)
    further: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]], metadata=OPTIONAL)
    privacy: PrivacyInfo = field(default_factory=PrivacyInfo, metadata=OPTIONAL)
    delay_s: float = UNKNOWN
    phases: Phases = field(default_factory=Phases)
    energy_j: float = UNKNOWN
    energy: Energy = field(default_factory=Energy)
    bits: Bits = field(default_factory=dict[str, float])
    plan: PlanInfo = field(default_factory=PlanInfo)
    aggregation: Aggregation = field(default_factory=Aggregation)
    samples: float = UNKNOWN
    tokens: float = UNKNOWN
    tokens_per_s: float = UNKNOWN
    wall_s: float = UNKNOWN
    peak_memory_bytes: float = UNKNOWN
    trainable_parameters: Trainable = field(default_factory=Trainable)
    versions: dict[str, str] = field(default_factory=dict[str, str])
    commit: str | None = None  # where it runs from a checkout
    hardware: str = ""
    started: str = ""
    ended: str = ""
    command: str = ""


@dataclass(frozen=True)
class Sample:
    """One generation before and after training."""

    prompt: str = ""
    reference: str = ""
    before: str = ""
    after: str = ""
    domain: str = ""
    client: int | None = None  # whose model answered, where clients have models of their own
