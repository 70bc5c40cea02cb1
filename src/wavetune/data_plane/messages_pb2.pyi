from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Frame(_message.Message):
    __slots__ = ("sequence", "sent_at_s", "hello", "layout", "parts", "loss", "losses")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    SENT_AT_S_FIELD_NUMBER: _ClassVar[int]
    HELLO_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    LOSSES_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    sent_at_s: float
    hello: Hello
    layout: Layout
    parts: _containers.RepeatedCompositeFieldContainer[Part]
    loss: Loss
    losses: _containers.RepeatedCompositeFieldContainer[Loss]
    def __init__(self, sequence: _Optional[int] = ..., sent_at_s: _Optional[float] = ..., hello: _Optional[_Union[Hello, _Mapping]] = ..., layout: _Optional[_Union[Layout, _Mapping]] = ..., parts: _Optional[_Iterable[_Union[Part, _Mapping]]] = ..., loss: _Optional[_Union[Loss, _Mapping]] = ..., losses: _Optional[_Iterable[_Union[Loss, _Mapping]]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("version", "run", "round", "client", "token", "width", "cut")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    CUT_FIELD_NUMBER: _ClassVar[int]
    version: int
    run: str
    round: int
    client: int
    token: bytes
    width: int
    cut: int
    def __init__(self, version: _Optional[int] = ..., run: _Optional[str] = ..., round: _Optional[int] = ..., client: _Optional[int] = ..., token: _Optional[bytes] = ..., width: _Optional[int] = ..., cut: _Optional[int] = ...) -> None: ...

class Layout(_message.Message):
    __slots__ = ("lengths", "label_positions")
    LENGTHS_FIELD_NUMBER: _ClassVar[int]
    LABEL_POSITIONS_FIELD_NUMBER: _ClassVar[int]
    lengths: _containers.RepeatedScalarFieldContainer[int]
    label_positions: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, lengths: _Optional[_Iterable[int]] = ..., label_positions: _Optional[_Iterable[int]] = ...) -> None: ...

class Part(_message.Message):
    __slots__ = ("kind", "tensors")
    KIND_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    kind: str
    tensors: bytes
    def __init__(self, kind: _Optional[str] = ..., tensors: _Optional[bytes] = ...) -> None: ...

class Loss(_message.Message):
    __slots__ = ("nll", "labelled", "tokens")
    NLL_FIELD_NUMBER: _ClassVar[int]
    LABELLED_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    nll: float
    labelled: int
    tokens: int
    def __init__(self, nll: _Optional[float] = ..., labelled: _Optional[int] = ..., tokens: _Optional[int] = ...) -> None: ...

class Order(_message.Message):
    __slots__ = ("round", "goodbye")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    GOODBYE_FIELD_NUMBER: _ClassVar[int]
    round: RoundOrder
    goodbye: Goodbye
    def __init__(self, round: _Optional[_Union[RoundOrder, _Mapping]] = ..., goodbye: _Optional[_Union[Goodbye, _Mapping]] = ...) -> None: ...

class RoundOrder(_message.Message):
    __slots__ = ("run", "round", "recipe", "local_steps", "cuts", "ranks", "bf16", "address", "token", "adapters", "main_bit_per_s", "fed_bit_per_s", "outage", "listen", "align", "notice", "blocks", "frozen", "batch_size")
    RUN_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    RECIPE_FIELD_NUMBER: _ClassVar[int]
    LOCAL_STEPS_FIELD_NUMBER: _ClassVar[int]
    CUTS_FIELD_NUMBER: _ClassVar[int]
    RANKS_FIELD_NUMBER: _ClassVar[int]
    BF16_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    MAIN_BIT_PER_S_FIELD_NUMBER: _ClassVar[int]
    FED_BIT_PER_S_FIELD_NUMBER: _ClassVar[int]
    OUTAGE_FIELD_NUMBER: _ClassVar[int]
    LISTEN_FIELD_NUMBER: _ClassVar[int]
    ALIGN_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    FROZEN_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    run: str
    round: int
    recipe: str
    local_steps: int
    cuts: _containers.RepeatedScalarFieldContainer[int]
    ranks: _containers.RepeatedScalarFieldContainer[int]
    bf16: bool
    address: str
    token: bytes
    adapters: bytes
    main_bit_per_s: float
    fed_bit_per_s: float
    outage: bool
    listen: bool
    align: Align
    notice: str
    blocks: _containers.RepeatedScalarFieldContainer[int]
    frozen: _containers.RepeatedScalarFieldContainer[str]
    batch_size: int
    def __init__(self, run: _Optional[str] = ..., round: _Optional[int] = ..., recipe: _Optional[str] = ..., local_steps: _Optional[int] = ..., cuts: _Optional[_Iterable[int]] = ..., ranks: _Optional[_Iterable[int]] = ..., bf16: _Optional[bool] = ..., address: _Optional[str] = ..., token: _Optional[bytes] = ..., adapters: _Optional[bytes] = ..., main_bit_per_s: _Optional[float] = ..., fed_bit_per_s: _Optional[float] = ..., outage: _Optional[bool] = ..., listen: _Optional[bool] = ..., align: _Optional[_Union[Align, _Mapping]] = ..., notice: _Optional[str] = ..., blocks: _Optional[_Iterable[int]] = ..., frozen: _Optional[_Iterable[str]] = ..., batch_size: _Optional[int] = ...) -> None: ...

class Align(_message.Message):
    __slots__ = ("steps", "evaluate", "rewards")
    STEPS_FIELD_NUMBER: _ClassVar[int]
    EVALUATE_FIELD_NUMBER: _ClassVar[int]
    REWARDS_FIELD_NUMBER: _ClassVar[int]
    steps: int
    evaluate: bool
    rewards: _containers.RepeatedCompositeFieldContainer[RewardModel]
    def __init__(self, steps: _Optional[int] = ..., evaluate: _Optional[bool] = ..., rewards: _Optional[_Iterable[_Union[RewardModel, _Mapping]]] = ...) -> None: ...

class RewardModel(_message.Message):
    __slots__ = ("name", "files")
    class FilesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    name: str
    files: _containers.ScalarMap[str, bytes]
    def __init__(self, name: _Optional[str] = ..., files: _Optional[_Mapping[str, bytes]] = ...) -> None: ...

class Goodbye(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class Report(_message.Message):
    __slots__ = ("attend", "round")
    ATTEND_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    attend: Attend
    round: RoundReport
    def __init__(self, attend: _Optional[_Union[Attend, _Mapping]] = ..., round: _Optional[_Union[RoundReport, _Mapping]] = ...) -> None: ...

class Attend(_message.Message):
    __slots__ = ("version", "client", "run", "states", "process")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    PROCESS_FIELD_NUMBER: _ClassVar[int]
    version: int
    client: int
    run: str
    states: _containers.RepeatedScalarFieldContainer[int]
    process: bytes
    def __init__(self, version: _Optional[int] = ..., client: _Optional[int] = ..., run: _Optional[str] = ..., states: _Optional[_Iterable[int]] = ..., process: _Optional[bytes] = ...) -> None: ...

class RoundReport(_message.Message):
    __slots__ = ("round", "failure", "seconds", "payload_bytes", "frame_bytes", "own", "foreign", "aligned", "not_finite")
    class SecondsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class PayloadBytesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class FrameBytesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    ROUND_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    FRAME_BYTES_FIELD_NUMBER: _ClassVar[int]
    OWN_FIELD_NUMBER: _ClassVar[int]
    FOREIGN_FIELD_NUMBER: _ClassVar[int]
    ALIGNED_FIELD_NUMBER: _ClassVar[int]
    NOT_FINITE_FIELD_NUMBER: _ClassVar[int]
    round: int
    failure: str
    seconds: _containers.ScalarMap[str, float]
    payload_bytes: _containers.ScalarMap[str, int]
    frame_bytes: _containers.ScalarMap[str, int]
    own: Score
    foreign: Score
    aligned: Aligned
    not_finite: bool
    def __init__(self, round: _Optional[int] = ..., failure: _Optional[str] = ..., seconds: _Optional[_Mapping[str, float]] = ..., payload_bytes: _Optional[_Mapping[str, int]] = ..., frame_bytes: _Optional[_Mapping[str, int]] = ..., own: _Optional[_Union[Score, _Mapping]] = ..., foreign: _Optional[_Union[Score, _Mapping]] = ..., aligned: _Optional[_Union[Aligned, _Mapping]] = ..., not_finite: _Optional[bool] = ...) -> None: ...

class Aligned(_message.Message):
    __slots__ = ("steps", "metrics", "own", "foreign")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class OwnEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Scores
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Scores, _Mapping]] = ...) -> None: ...
    class ForeignEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Scores
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Scores, _Mapping]] = ...) -> None: ...
    STEPS_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    OWN_FIELD_NUMBER: _ClassVar[int]
    FOREIGN_FIELD_NUMBER: _ClassVar[int]
    steps: int
    metrics: _containers.ScalarMap[str, float]
    own: _containers.MessageMap[str, Scores]
    foreign: _containers.MessageMap[str, Scores]
    def __init__(self, steps: _Optional[int] = ..., metrics: _Optional[_Mapping[str, float]] = ..., own: _Optional[_Mapping[str, Scores]] = ..., foreign: _Optional[_Mapping[str, Scores]] = ...) -> None: ...

class Scores(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, values: _Optional[_Iterable[float]] = ...) -> None: ...

class Score(_message.Message):
    __slots__ = ("nll", "positions", "correct")
    NLL_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    CORRECT_FIELD_NUMBER: _ClassVar[int]
    nll: float
    positions: float
    correct: float
    def __init__(self, nll: _Optional[float] = ..., positions: _Optional[float] = ..., correct: _Optional[float] = ...) -> None: ...
