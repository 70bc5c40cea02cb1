"""One line of rounds.jsonl: what a round planned, did, cost and came to.

Legend: K clients, M subchannels.
"""

from dataclasses import dataclass, field

from wavetune.records.fields import OPTIONAL, UNKNOWN

BIT_KINDS = {
    "activations_up": ("activations", "up"),
    "gradients_up": ("gradients", "up"),
    "labels_up": ("labels", "up"),
    "adapters_up": ("adapters", "up"),
    "gradients_down": ("gradients", "down"),
    "activations_down": ("activations", "down"),
    "adapters_down": ("adapters", "down"),
    "analog_up": ("adapters, all at once", "up"),
    "adapters_side": ("adapters between clients", "across"),
    "backhaul": ("adapters between servers", "across"),
    "model_down": ("the clients' model", "down"),
}
"""What crosses the air, by the name it has in records: what it is, and which way it goes."""
Bits = dict[str, float]
"""By kind; a kind that is absent is 0."""


@dataclass(frozen=True)
class Phases:
    """Seconds of every phase, in their order; per client where clients act, summed over a round's steps or of one step.

    The server's are per client too where each is served on its own, by its share of the server.
    """

    client_forward_s: tuple[float, ...] = ()
    uplink_s: tuple[float, ...] = ()
    server_forward_s: float | tuple[float, ...] = UNKNOWN
    server_backward_s: float | tuple[float, ...] = UNKNOWN
    downlink_s: tuple[float, ...] = ()
    client_backward_s: tuple[float, ...] = ()
    fed_upload_s: tuple[float, ...] = ()
    fed_download_s: tuple[float, ...] = ()
    link_s: float = field(default=0.0, metadata=OPTIONAL)  # of messages that no plan has in its bands, once a round
    server_steps_s: float = field(default=0.0, metadata=OPTIONAL)  # of the server's own training, once a round


@dataclass(frozen=True)
class Energy:
    """Joules by where they are spent: computing, the amplifiers of radios, and what clients draw besides."""

    client_compute_j: tuple[float, ...] = ()
    client_radio_j: tuple[float, ...] = ()
    server_compute_j: float = UNKNOWN
    server_radio_j: float = UNKNOWN
    client_standby_j: tuple[float, ...] = field(default=(), metadata=OPTIONAL)


@dataclass(frozen=True)
class Account:
    """Seconds, joules and bits of one round, as planned or as charged."""

    delay_s: float = UNKNOWN
    local_steps: int | None = None
    phases: Phases = field(default_factory=Phases)
    step: Phases = field(default_factory=Phases)
    energy_j: float = UNKNOWN  # computing and amplifiers, what plans weigh
    energy: Energy = field(default_factory=Energy)
    bits: Bits = field(default_factory=dict[str, float])
    bits_up_K: tuple[float, ...] = ()
    bits_down_K: tuple[float, ...] = ()


@dataclass(frozen=True)
class Measured:
    """Seconds and bytes that a round of a deployed run really took; payload by kind, frames by client."""

    wall_s: float = UNKNOWN
    phases: Phases = field(default_factory=Phases)
    payload_bytes: dict[str, float] = field(default_factory=dict[str, float])
    framing_bytes: float = UNKNOWN
    frame_bytes_up_K: tuple[float, ...] = ()
    frame_bytes_down_K: tuple[float, ...] = ()


@dataclass(frozen=True)
class Straggler:
    """The client and phase that a round waited for longest."""

    client: int
    phase: str = ""


@dataclass(frozen=True)
class BandUse:
    """Owner (-1 = unused) and transmit power of each subchannel."""

    owner: tuple[int, ...] = ()
    power_w: tuple[float, ...] = ()


@dataclass(frozen=True)
class Allocation:
    """Both uplink bands of one round."""

    main: BandUse = field(default_factory=BandUse)
    fed: BandUse = field(default_factory=BandUse)


@dataclass(frozen=True)
class Rates:
    """Uplink rate of each client in both bands."""

    main: tuple[float, ...] = ()
    fed: tuple[float, ...] = ()


@dataclass(frozen=True)
class Lost:
    """A client whose update did not arrive, and why."""

    client: int
    why: str = ""
    claim: str = field(default="", metadata=OPTIONAL)  # what the client says itself, where that is more


@dataclass(frozen=True)
class Refused:
    """Somebody who was not let in, by the name in the certificate, and why; of several `times`, the first reason."""

    who: str = ""
    why: str = ""
    times: int = field(default=1, metadata=OPTIONAL)


@dataclass(frozen=True)
class Spent:
    """Epsilon of private updates at `delta`, by who looks; unknown where nothing is guaranteed."""

    delta: float = UNKNOWN
    epsilon: float = UNKNOWN
    epsilon_client: float = UNKNOWN
    epsilon_server: float = UNKNOWN


@dataclass(frozen=True)
class RoundPrivacy(Spent):
    """What was given away after a round, how many updates it mixed, and their norms before clipping."""

    mixed: int | None = None
    update_norm_K: tuple[float, ...] = ()


@dataclass(frozen=True)
class Judged:
    """Loss and, for classifiers, accuracy on validation rows: overall, on each client's own and on foreign domains."""

    loss: float = UNKNOWN
    own_loss_K: tuple[float, ...] = ()
    foreign_loss_K: tuple[float, ...] = ()
    accuracy: float = field(default=UNKNOWN, metadata=OPTIONAL)
    own_accuracy_K: tuple[float, ...] = field(default=(), metadata=OPTIONAL)
    foreign_accuracy_K: tuple[float, ...] = field(default=(), metadata=OPTIONAL)


@dataclass(frozen=True)
class Round:
    """One line of rounds.jsonl."""

    round: int
    cut_K: tuple[int, ...] = ()
    rank_K: tuple[int, ...] = ()
    train_loss: float = UNKNOWN
    train_loss_K: tuple[float, ...] = ()
    validation_loss: float = UNKNOWN
    samples: float = UNKNOWN
    tokens: float = UNKNOWN
    learning_rate: float = UNKNOWN
    planned: Account = field(default_factory=Account)
    charged: Account = field(default_factory=Account)
    informed_s: float = field(default=UNKNOWN, metadata=OPTIONAL)  # charged had the channel been known when planned
    metered_bits: Bits = field(default_factory=dict[str, float])
    measured: Measured = field(default_factory=Measured, metadata=OPTIONAL)
    straggler: Straggler | None = None
    allocation: Allocation = field(default_factory=Allocation)
    rate_bit_per_s: Rates = field(default_factory=Rates)
    aggregation_error: float = UNKNOWN
    active_K: tuple[bool, ...] = ()
    lost: tuple[Lost, ...] = ()
    server_loss: float = field(default=UNKNOWN, metadata=OPTIONAL)  # mean of the server's own steps
    blocks: tuple[int, ...] = field(default=(), metadata=OPTIONAL)  # trained and sent, where these are not all
    frozen: tuple[str, ...] = field(default=(), metadata=OPTIONAL)  # factors of LoRA that had no turn
    refused: tuple[Refused, ...] = field(default=(), metadata=OPTIONAL)
    evaluation: Judged = field(default_factory=Judged, metadata=OPTIONAL)
    privacy: RoundPrivacy = field(default_factory=RoundPrivacy, metadata=OPTIONAL)
    wall_s: float = UNKNOWN
    tokens_per_s: float = UNKNOWN
