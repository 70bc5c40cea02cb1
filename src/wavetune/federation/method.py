"""A method: the parts that make a federated fine-tuning system, each a small frozen value, checked together.

Nothing here imports torch, so that planning and showing recipes stay instant.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt

from wavetune.costs.bottleneck import Bottleneck
from wavetune.errors import ConfigError
from wavetune.federation.codec_choice import CodecCandidate
from wavetune.federation.codecs import Bf16, Codec, Fp32, Fp64, TopK, UpdateCodec
from wavetune.federation.links import Link, Reliable
from wavetune.federation.local_alignment import LocalAlignment
from wavetune.federation.lora_targets import LoraTargets
from wavetune.federation.mixing import AverageFactors, FrozenA, Mixing
from wavetune.federation.optimise import AdamW
from wavetune.federation.planning import Fedsllm, Optimal, Planner
from wavetune.federation.privacy import Gaussian
from wavetune.federation.screening import Screening
from wavetune.federation.selection import All, Fastest, Selection
from wavetune.federation.sharing import Sharing

Rank = Annotated[int, Ge(1)]
Cut = Annotated[int, Ge(1)]
Crossing = Literal["cut", "adapters"]


@dataclass(frozen=True)
class Split:
    """The model is cut: each client runs the first blocks, the main server the rest.

    `cut` is one number for all clients, one per client, or None: the planner chooses among `cuts` (all, if None too).
    `labels` at the client makes the model U-shaped: final norm, head and loss come back to the client. With the
    sequential schedule the server steps after each client in turn (SplitLoRA), else once on all of them.
    """

    kind: Literal["split"] = field(default="split", kw_only=True)
    crossings: ClassVar[tuple[Crossing, ...]] = ("cut", "adapters")
    cut: Cut | tuple[Cut, ...] | None = None
    cuts: tuple[Cut, ...] | None = None
    labels: Literal["server", "client"] = "server"
    schedule: Literal["parallel", "sequential"] = "parallel"


@dataclass(frozen=True)
class Federated:
    """Every client holds the whole model and sends only adapters."""

    kind: Literal["federated"] = field(default="federated", kw_only=True)
    crossings: ClassVar[tuple[Crossing, ...]] = ("adapters",)


@dataclass(frozen=True)
class Central:
    """One trainer holds everybody's data and takes the clients' batches as one: the reference without federation."""

    kind: Literal["central"] = field(default="central", kw_only=True)
    crossings: ClassVar[tuple[Crossing, ...]] = ()


Topology = Split | Federated | Central
_NOTHING = {"cut": ("nothing crosses a cut", "split"), "adapters": ("no adapters cross the air", "federated")}


@dataclass(frozen=True)
class Lora:
    """LoRA on the linear maps named in `targets`: ends of their dotted paths, or `all-linear` for all of the blocks, as
    in PEFT; by default PEFT's choice for the model family.

    `rank` is one number, one per client, or None: the planner chooses among the ranks of `rounds_to_target`. The update
    is `alpha / R` times the product of the factors, R the largest rank in use.
    """

    rank: Rank | tuple[Rank, ...] | None = None
    alpha: Annotated[float, Gt(0)] = 16.0
    targets: LoraTargets | None = None


@dataclass(frozen=True)
class Method:
    """What is trained where, what crosses the air and how it is mixed.

    With `choose_codecs` the planner decides which of `codec_candidates` cross the cut, instead of `activation_codec`
    and `gradient_codec`. With `proximal` mu, mu/2 times the squared distance of a client's shared adapters to the last
    broadcast is added to its loss. With `alignment` the federated rounds are followed by a stage on each client alone.

    A field's metadata says what it `acts_on`, if that does not cross in every topology; a part may say it for itself.
    """

    title: str
    topology: Topology = field(default_factory=Split)
    lora: Lora = field(default_factory=Lora)
    bottleneck: Bottleneck | None = None
    sharing: Sharing = field(default_factory=Sharing)
    proximal: Annotated[float, Ge(0)] = 0.0
    optimiser: AdamW = field(default_factory=AdamW)
    activation_codec: Codec = field(default_factory=Bf16, metadata={"acts_on": "cut"})
    gradient_codec: Codec = field(default_factory=Bf16, metadata={"acts_on": "cut"})
    choose_codecs: bool = False
    codec_candidates: tuple[CodecCandidate, ...] = ()
    adapter_codec: UpdateCodec = field(default_factory=Fp32, metadata={"acts_on": "adapters"})
    link: Link = field(default_factory=Reliable, metadata={"acts_on": "adapters"})
    mixing: Mixing = field(default_factory=AverageFactors, metadata={"acts_on": "adapters"})
    screening: Screening | None = field(default=None, metadata={"acts_on": "adapters"})
    privacy: Gaussian | None = None
    planner: Planner = field(default_factory=Optimal)
    selection: Selection = field(default_factory=All)
    replan: Literal["every_round", "never"] = field(default="every_round", metadata={"acts_on": "adapters"})
    price_downlink: bool = field(default=False, metadata={"acts_on": "adapters"})
    server_shares: Literal["together", "optimal"] = "together"
    rounds_to_target: dict[int, float] = field(default_factory=dict[int, float])
    alignment: LocalAlignment | None = None

    def __post_init__(self) -> None:
        for rank, rounds in self.rounds_to_target.items():
            if rank < 1 or not rounds > 0:
                raise ConfigError(
                    f"method.rounds_to_target has {rounds} rounds at rank {rank}; ranks are at least 1, rounds positive"
                )

    def check(self, num_clients: int, num_layers: int, width: int) -> None:
        """Raise ConfigError where the parts do not fit each other, the clients or the model."""
        for path, value, what in _idle(self, "method", self.topology.crossings):
            why, other = _NOTHING[what]
            shown = getattr(value, "kind", "set" if is_dataclass(value) else value)
            raise ConfigError(
                f"{path} is {shown!r}, which changes nothing with method.topology {self.topology.kind}: {why}; leave "
                f"it out, or set method.topology.kind={other}"
            )
        if isinstance(self.topology, Split):
            _check_per_client("method.topology.cut", self.topology.cut, num_clients, num_layers, "the model's blocks")
            for cut in self.topology.cuts or ():
                _check_per_client("method.topology.cuts", cut, num_clients, num_layers, "the model's blocks")
        for name in ("shared_layers", "trained_layers"):
            if (getattr(self.sharing, name) or 0) > num_layers:
                raise ConfigError(
                    f"method.sharing.{name} is {getattr(self.sharing, name)} but the model has {num_layers} blocks; "
                    "give at most these"
                )
        if self.mixing.rebases and isinstance(self.adapter_codec, TopK):
            raise ConfigError(
                "method.adapter_codec top_k sends changes of the factors, and method.mixing average_product gives "
                "factors of another basis every round; choose average_factors or frozen_a"
            )
        if isinstance(self.planner, Fedsllm) and (
            not isinstance(self.topology, Split)
            or isinstance(self.topology.cut, tuple)
            or isinstance(self.lora.rank, tuple)
        ):
            raise ConfigError(
                "method.planner fedsllm needs a split with one cut and one rank for all clients; set "
                "method.topology.kind=split and one number each, or choose another planner"
            )
        if self.server_shares != "together" and not (
            isinstance(self.topology, Split) and self.topology.schedule == "parallel"
        ):
            raise ConfigError(
                f"method.server_shares is {self.server_shares!r}, which serves all clients of a split at once; set it "
                "to together, or method.topology.kind=split with the parallel schedule"
            )
        self._check_selection(num_clients)
        if self.privacy is not None:
            self._check_privacy()
        if self.choose_codecs and not (self.codec_candidates and isinstance(self.topology, Split)):
            raise ConfigError(
                "method.choose_codecs needs a cut and codecs to choose among; set method.topology.kind=split and "
                "method.codec_candidates, or give the table that `wavetune measure-codecs` writes with --codec-table"
            )
        if self.alignment is not None and not isinstance(self.topology, Federated):
            raise ConfigError(
                "method.alignment lets each client answer and learn alone, which needs the whole model on it; set "
                "method.topology.kind=federated, or method.alignment=null"
            )
        if self.alignment is not None and self.alignment.learning.steps and "lora" in self.sharing.shared:
            raise ConfigError(
                "method.alignment trains LoRA as each owner wishes, but method.sharing.shared has 'lora', which is "
                "then no longer what all share; take it out, or set method.alignment.learning.steps=0 to evaluate only"
            )
        _check_per_client("method.lora.rank", self.lora.rank, num_clients, width, "the model's narrowest LoRA target")
        if self.lora.rank is None and not self.rounds_to_target:
            raise ConfigError(
                "method.lora.rank is not set and method.rounds_to_target is empty, so no rank can be chosen; "
                "set a rank or give the table that `wavetune measure-ranks` writes"
            )
        for rank in self.rounds_to_target if self.lora.rank is None else ():
            _check_per_client("method.rounds_to_target", rank, num_clients, width, "the model's narrowest LoRA target")

    def _check_privacy(self) -> None:
        """Refuse what the guarantee does not hold for: it is that of a mean of clipped, noised updates."""
        if not isinstance(self.topology, Federated):
            raise ConfigError(
                f"method.privacy bounds what clients' updates tell, but with method.topology {self.topology.kind} the "
                "server's blocks learn from everybody's data beside them; set method.topology.kind=federated"
            )
        if not isinstance(self.mixing, AverageFactors | FrozenA):
            raise ConfigError(
                f"method.privacy counts the noise of a mean of updates, which method.mixing {self.mixing.kind} is not; "
                "choose average_factors or frozen_a"
            )
        if not isinstance(self.adapter_codec, Fp32 | Fp64):
            raise ConfigError(
                f"method.privacy counts the noise of a sum of updates, which method.adapter_codec "
                f"{self.adapter_codec.kind} rounds one by one; set method.adapter_codec.kind=fp32"
            )
        if self.link.lost == "reuse":
            raise ConfigError(
                "method.privacy counts every update once, and method.link.lost=reuse mixes old ones again; set it to "
                "skip"
            )
        if self.screening is not None:
            raise ConfigError(
                "method.privacy bounds what one client changes, and method.screening judges each by the others' "
                "updates; set it to null, clipping bounds every norm already"
            )

    def _check_selection(self, num_clients: int) -> None:
        selection = self.selection
        if isinstance(selection, All):
            return
        if isinstance(self.topology, Central) or self.replan == "never":
            raise ConfigError(
                f"method.selection {selection.kind} chooses clients every round, which needs clients that train and "
                "plans of their own for the rounds; set method.replan=every_round and another topology than central"
            )
        wanted = selection.count if isinstance(selection, Fastest) else selection.min_clients
        if wanted > num_clients:
            name = "count" if isinstance(selection, Fastest) else "min_clients"
            raise ConfigError(
                f"method.selection.{name} is {wanted} but there are {num_clients} clients; give at most that"
            )


def _idle(part: Any, path: str, crossings: tuple[Crossing, ...]) -> Iterator[tuple[str, Any, Crossing]]:
    """Settings below a part that differ from their defaults and act on what does not cross: path, value, on what."""
    for each in fields(part):
        value, where = getattr(part, each.name), f"{path}.{each.name}"
        what: Crossing | None = getattr(value, "acts_on", each.metadata.get("acts_on"))
        if what is not None and what not in crossings:
            if value != _default(each):
                yield where, value, what
        elif is_dataclass(value):
            yield from _idle(value, where, crossings)


def _default(each: Field[Any]) -> Any:
    return each.default if each.default_factory is MISSING else each.default_factory()


def _check_per_client(
    path: str, value: int | tuple[int, ...] | None, num_clients: int, largest: int, what: str
) -> None:
    values = () if value is None else value if isinstance(value, tuple) else (value,)
    if isinstance(value, tuple) and len(value) != num_clients:
        raise ConfigError(
            f"{path} has {len(value)} entries for {num_clients} clients; give one number, or one per client"
        )
    for entry in values:
        if not 1 <= entry <= largest:
            raise ConfigError(f"{path} is {entry} but must be between 1 and {largest} ({what})")
