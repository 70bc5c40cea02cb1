"""Typed reader of run folders that keeps what it can and says what it could not read.

An unknown number is NaN, an unknown list is empty, so that a half-written run reads like a whole one. Shape letters:
K clients, M subchannels.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, TypeAdapter, ValidationError

from wavetune.errors import JsonError, NotJsonError, RunFolderError
from wavetune.json_reader import LONGEST_RECORDS, parse, read_text

FILES = ("recipe.json", "rounds.jsonl", "summary.json", "world.json", "samples.json")
UNKNOWN = math.nan
LARGEST = 1e100
Bits = dict[str, float]  # kind ("activations_up", ...) -> bits; an absent kind is 0


@dataclass(frozen=True)
class Phases:
    """Seconds a phase took, per client where clients act, summed over a round's local steps or of one step.

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


@dataclass(frozen=True)
class Energy:
    """Joules by where they are spent."""

    client_compute_j: tuple[float, ...] = ()
    client_radio_j: tuple[float, ...] = ()
    server_compute_j: float = UNKNOWN
    server_radio_j: float = UNKNOWN


@dataclass(frozen=True)
class Account:
    """Seconds, joules and bits of one round, as planned or as charged."""

    delay_s: float = UNKNOWN
    local_steps: int | None = None
    phases: Phases = field(default_factory=Phases)
    step: Phases = field(default_factory=Phases)
    energy_j: float = UNKNOWN
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
    claim: str = ""  # what the client says itself, where that is more


@dataclass(frozen=True)
class Spent:
    """Epsilon of private updates by who looks; unknown where nothing is guaranteed."""

    delta: float = UNKNOWN
    epsilon: float = UNKNOWN
    epsilon_client: float = UNKNOWN
    epsilon_server: float = UNKNOWN


def _lost(value: Any) -> Any:
    """Older records name the client alone."""
    return {"client": value} if isinstance(value, int) else value


@dataclass(frozen=True)
class Judged:
    """Loss and, for classifiers, accuracy on validation rows: overall, on each client's own and on foreign domains."""

    loss: float = UNKNOWN
    accuracy: float = UNKNOWN
    own_loss_K: tuple[float, ...] = ()
    foreign_loss_K: tuple[float, ...] = ()
    own_accuracy_K: tuple[float, ...] = ()
    foreign_accuracy_K: tuple[float, ...] = ()


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
    metered_bits: Bits = field(default_factory=dict[str, float])
    measured: Measured = field(default_factory=Measured)
    straggler: Straggler | None = None
    allocation: Allocation = field(default_factory=Allocation)
    rate_bit_per_s: Rates = field(default_factory=Rates)
    aggregation_error: float = UNKNOWN
    active_K: tuple[bool, ...] = ()
    lost: tuple[Annotated[Lost, BeforeValidator(_lost)], ...] = ()
    evaluation: Judged = field(default_factory=Judged)
    privacy: Spent = field(default_factory=Spent)
    wall_s: float = UNKNOWN
    tokens_per_s: float = UNKNOWN


@dataclass(frozen=True)
class Device:
    """One device of world.json."""

    client_id: int
    name: str = ""
    position_m: tuple[float, float] | None = None
    flop_per_s: float = UNKNOWN
    tx_power_max_w: float = UNKNOWN
    path_loss_db: float = UNKNOWN
    shadowing_db: float = UNKNOWN
    is_los: bool | None = None
    num_samples: float = UNKNOWN
    domains: dict[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True)
class BandShape:
    """Size of an uplink band."""

    num_subchannels: int = 0
    subchannel_hz: float = UNKNOWN


@dataclass(frozen=True)
class BandShapes:
    """Both uplink bands."""

    main: BandShape = field(default_factory=BandShape)
    fed: BandShape = field(default_factory=BandShape)


@dataclass(frozen=True)
class ServerInfo:
    """The main server."""

    flop_per_s: float = UNKNOWN


@dataclass(frozen=True)
class World:
    """The drawn cell: world.json."""

    cell_radius_m: float = UNKNOWN
    devices: tuple[Device, ...] = ()
    bands: BandShapes = field(default_factory=BandShapes)
    server: ServerInfo = field(default_factory=ServerInfo)


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


@dataclass(frozen=True)
class Change:
    """A measure before the first and after the last round."""

    before: float = UNKNOWN
    after: float = UNKNOWN


@dataclass(frozen=True)
class PlanInfo:
    """What the planner promised, and what the baselines would."""

    delay_s: float = UNKNOWN
    lower_bound_s: float = UNKNOWN
    cut_K: tuple[int, ...] = ()
    rank_K: tuple[int, ...] = ()
    method: str = ""
    baselines: dict[str, float] = field(default_factory=dict[str, float])
    bottleneck: str = ""
    savings: dict[str, float] = field(default_factory=dict[str, float])  # of 10 % more of each resource


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
class Gain:
    """Mean over prompts, in standard deviations of all answers before, and half its 95 % interval."""

    mean: float = UNKNOWN
    half_width_95: float = UNKNOWN


Scores = dict[str, tuple[float, ...]]  # "helpful_K", "true_safe_K", "mixed_reward_K", ... -> mean of each client


@dataclass(frozen=True)
class AlignmentInfo:
    """What the second stage came to, on held-out prompts."""

    lambdas: tuple[float, ...] = ()
    objective: str = ""
    steps: int | None = None
    before: Scores = field(default_factory=dict[str, tuple[float, ...]])
    after: Scores = field(default_factory=dict[str, tuple[float, ...]])
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
    """One line of alignment.jsonl: means over each client's training prompts; at some steps scores on held-out ones."""

    step: int
    reward: tuple[float, ...] = ()
    helpful: tuple[float, ...] = ()
    safe: tuple[float, ...] = ()
    true_helpful: tuple[float, ...] = ()
    true_safe: tuple[float, ...] = ()
    kl: tuple[float, ...] = ()
    evaluation: Scores = field(default_factory=dict[str, tuple[float, ...]])
    charged: Charged = field(default_factory=Charged)
    measured: AlignmentMeasured = field(default_factory=AlignmentMeasured)


@dataclass(frozen=True)
class Answers:
    """One client's answers to held-out prompts and their scores, by name and in the order of the prompts."""

    prompts: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    scores: Scores = field(default_factory=dict[str, tuple[float, ...]])


@dataclass(frozen=True)
class HeldOut:
    """alignment_before.json or alignment_after.json: every client's answers on own and foreign domains."""

    own: tuple[Answers, ...] = ()
    foreign: tuple[Answers, ...] = ()


@dataclass(frozen=True)
class Summary:
    """summary.json; the default is what is known of a run without one."""

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
    perplexity: Change = field(default_factory=Change)
    evaluation: Judgement = field(default_factory=Judgement)
    personal: bool = False
    full_model_bits: float = UNKNOWN
    upload_bits_K: tuple[float, ...] = ()
    all_adapters_bits_K: tuple[float, ...] = ()
    alignment: AlignmentInfo = field(default_factory=AlignmentInfo)
    privacy: Spent = field(default_factory=Spent)
    delay_s: float = UNKNOWN
    energy_j: float = UNKNOWN
    bits: Bits = field(default_factory=dict[str, float])
    plan: PlanInfo = field(default_factory=PlanInfo)
    aggregation: Aggregation = field(default_factory=Aggregation)
    tokens: float = UNKNOWN
    tokens_per_s: float = UNKNOWN
    wall_s: float = UNKNOWN
    peak_memory_bytes: float = UNKNOWN
    trainable_parameters: Trainable = field(default_factory=Trainable)
    versions: dict[str, str] = field(default_factory=dict[str, str])
    commit: str = ""
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


@dataclass(frozen=True)
class Run:
    """Everything a run folder says. `problems` holds one sentence for each thing that could not be read."""

    folder: Path
    recipe: dict[str, Any]
    rounds: tuple[Round, ...]
    summary: Summary
    world: World
    samples: tuple[Sample, ...]
    problems: tuple[str, ...]
    alignment: tuple[AlignmentStep, ...] = ()
    held_out_before: HeldOut = field(default_factory=HeldOut)
    held_out_after: HeldOut = field(default_factory=HeldOut)
    state: dict[str, Any] = field(default_factory=dict[str, Any])  # what was known before the first round


def read_run(folder: Path) -> Run:
    """Read a run folder; missing or torn files become sentences in `problems`.

    Raises: RunFolderError if the folder does not exist or holds none of the record files.
    """
    if not any((folder / name).is_file() for name in FILES):
        raise RunFolderError(f"{folder} holds no run records; expected at least one of {', '.join(FILES)}")
    problems: list[str] = []
    return Run(
        folder=folder,
        recipe=_read(folder / "recipe.json", dict[str, Any], {}, problems),
        rounds=_read_lines(folder / "rounds.jsonl", Round, "round", problems),
        summary=_read(folder / "summary.json", Summary, Summary(), problems),
        world=_read(folder / "world.json", World, World(), problems),
        samples=_read(folder / "samples.json", tuple[Sample, ...], (), problems),
        alignment=_read_lines(folder / "alignment.jsonl", AlignmentStep, "step", problems, optional=True),
        held_out_before=_read(folder / "alignment_before.json", HeldOut, HeldOut(), problems, optional=True),
        held_out_after=_read(folder / "alignment_after.json", HeldOut, HeldOut(), problems, optional=True),
        state=_read(folder / "state.json", dict[str, Any], {}, problems, optional=True),
        problems=tuple(problems),
    )


def _read(path: Path, kind: Any, default: Any, problems: list[str], optional: bool = False) -> Any:
    if not path.exists():
        problems += [] if optional else [f"{path.name} is missing."]
        return default
    ignored: list[str] = []
    try:
        return _parse(read_text(path, errors="replace"), kind, ignored)
    except ValueError as error:
        ignored = [f"not readable ({_reason(error)})"]
        return default
    finally:
        problems.extend(f"{path.name}: {reason}; left out." for reason in ignored)


def _read_lines(path: Path, kind: Any, index: str, problems: list[str], optional: bool = False) -> tuple[Any, ...]:
    """Records in order of their index; one written twice (by a resumed run) counts once, as written last."""
    if not path.exists():
        problems += [] if optional else [f"{path.name} is missing."]
        return ()
    try:
        lines = read_text(path, LONGEST_RECORDS, "replace").rstrip("\n").split("\n")
    except JsonError as error:
        problems.append(f"{path.name}: not readable ({error.reason}); left out.")
        return ()
    records: dict[int, Any] = {}
    ignored: list[str] = []
    for number, line in enumerate(lines, start=1):
        try:
            record = _parse(line, kind, ignored) if line.strip() else None
        except NotJsonError:
            ignored.append("the last line is torn" if number == len(lines) else f"line {number} is not JSON")
        except ValueError as error:
            ignored.append(f"line {number} is not a {index} ({_reason(error)})")
        else:
            records |= {getattr(record, index): record} if record else {}
    for reason, times in Counter(ignored).items():
        problems.append(f"{path.name}: {reason}{f', in {times} lines' if times > 1 else ''}; left out.")
    return tuple(records[number] for number in sorted(records))


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _parse(text: str, kind: Any, ignored: list[str]) -> Any:
    """Validate a document; fields that do not fit are named in `ignored` and read as absent."""
    document = _known(parse(text, finite=False, unique=False), ignored)
    try:
        return _adapter(kind).validate_python(document)
    except ValidationError as error:
        bad = {first["loc"][0] for first in error.errors() if first["loc"]}
        if not isinstance(document, dict) or not bad <= document.keys():
            raise
        valid = _adapter(kind).validate_python({key: value for key, value in document.items() if key not in bad})
        ignored.append(_reason(error))
        return valid


def _known(value: Any, ignored: list[str]) -> Any:
    """Drop null fields, so that their defaults hold, and read null inside a list as NaN.

    Numbers that no sum or axis could hold are read as null too.
    """
    if isinstance(value, dict):
        known = {key: _known(item, ignored) for key, item in value.items()}
        return {key: item for key, item in known.items() if item is not None}
    if isinstance(value, list):
        return [UNKNOWN if (item := _known(each, ignored)) is None else item for each in value]
    if isinstance(value, int | float) and abs(value) > LARGEST:
        ignored.append(f"a number is beyond {LARGEST:.0e}")
        return None
    return value


def _reason(error: ValueError) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc'])) or 'the document'}: {first['msg']}"
    return error.reason if isinstance(error, JsonError) else str(error)
