"""A method: the parts that make a federated fine-tuning system, each a small frozen value, checked together.

Nothing here imports torch, so that planning and showing recipes stay instant.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from wavetune import parts
from wavetune.errors import ConfigError, nearest
from wavetune.federation.adapters.adapter import Adapter
from wavetune.federation.adapters.bottleneck import Bottleneck
from wavetune.federation.adapters.soft_prompt import SoftPrompt
from wavetune.federation.client_models.client_model import ClientModel
from wavetune.federation.codec_choice import CodecCandidate
from wavetune.federation.codecs import Bf16, Chain, Codec, Fp32, Transform
from wavetune.federation.exchanges.exchange import Exchange
from wavetune.federation.exchanges.star import Star
from wavetune.federation.facts import (
    ADAPTERS,
    AT_ONCE,
    BOTH_FACTORS,
    CUT,
    KEPT_LORA,
    NEW_PLANS,
    ONE_CUT,
    ONE_RANK,
    PRIVATE_LORA,
)
from wavetune.federation.filters.filter import Filter
from wavetune.federation.filters.screening import Screening
from wavetune.federation.links import Link, Reliable
from wavetune.federation.local_alignment import LocalAlignment
from wavetune.federation.lora_targets import LoraTargets
from wavetune.federation.mixing import AverageFactors, Mixing
from wavetune.federation.objectives import Likelihood, Supervised
from wavetune.federation.optimise import AdamW, Optimiser
from wavetune.federation.phases import PhasePart
from wavetune.federation.planning import Optimal, Planner
from wavetune.federation.privacy import Gaussian
from wavetune.federation.rank_choice import Rounds, require_rounds
from wavetune.federation.selection import All, Selection
from wavetune.federation.server_steps import ServerSteps
from wavetune.federation.sharing import Sharing
from wavetune.federation.topology import Split, Topology, require_per_client
from wavetune.models.adapter import ModelAdapter
from wavetune.parts import Extent, Fact, Part

Rank = Annotated[int, Ge(1)]
NARROWEST = "the model's narrowest LoRA target"


@dataclass(frozen=True)
class Lora(Part):
    """LoRA on the linear maps named in `targets`: ends of their dotted paths, or `all-linear` for all of the blocks, as
    in PEFT; by default PEFT's choice for the model family.

    `rank` is one number (0: no LoRA), one per client, or None: the planner chooses among the ranks of
    `rounds_to_target`. The update is the product of the factors times `alpha / R`, `alpha / sqrt(R)` or `alpha`, as
    `scaling` is `rank`, `root` (arXiv 2312.03732, `use_rslora` of PEFT) or `none`; R is the largest rank in use.
    """

    rank: Annotated[int, Ge(0)] | tuple[Rank, ...] | None = None
    alpha: Annotated[float, Gt(0), Le(1e9)] = 16.0
    scaling: Literal["rank", "root", "none"] = "rank"
    targets: LoraTargets | None = None

    def alpha_at(self, largest: int) -> float:
        """What is divided by the largest rank in use to give the scale of an update.

        >>> [Lora(alpha=8.0, scaling=scaling).alpha_at(4) / 4 for scaling in ("rank", "root", "none")]
        [2.0, 4.0, 8.0]
        """
        return self.alpha * largest ** {"rank": 0.0, "root": 0.5, "none": 1.0}[self.scaling]

    def removed(self) -> tuple[Fact, ...]:
        """One common rank, where every client has its own; LoRA of clients' own, where there is none."""
        if self.rank == 0:
            return PRIVATE_LORA, KEPT_LORA
        return (ONE_RANK,) if isinstance(self.rank, tuple) else ()

    def on(self, default: Sequence[str]) -> tuple[str, ...]:
        """The targets on a model for which these are the default; none at rank 0."""
        return () if self.rank == 0 else tuple(self.targets or default)

    def fits(self, path: str, extent: Extent) -> None:
        """Refuse ranks that are not one a client, or above the width of a map that carries them."""
        if self.rank == 0:
            return
        require_per_client(f"{path}.rank", self.rank, extent.num_clients, extent.width, NARROWEST)


@dataclass(frozen=True)
class Method(Part):
    """What is trained where, what crosses the air and how it is mixed.

    Trained are `lora`, where they are set `bottleneck` and `soft_prompt`, and further kinds of `adapters`, by clients
    in the servers' model or in a `client_model`.
    With `choose_codecs` the planner decides which of `codec_candidates` cross the cut, instead of `activation_codec`
    and `gradient_codec`. With `proximal` mu, mu/2 times the squared distance of a client's shared adapters to the last
    broadcast is added to its loss. `rounds_to_target` has for each rank the rounds to the target loss, one number or
    one a seed; the planner takes the mean over the `slowest_seeds`, a share of them. With `alignment` the federated
    rounds are followed by a stage on each client alone, and then by further `phases`. With `turns` the
    local steps of a round are divided among the entries, in each of which its kinds of adapters alone are trained.
    """

    title: str
    topology: Topology = field(default_factory=Split)
    lora: Lora = field(default_factory=Lora)
    bottleneck: Bottleneck | None = None
    soft_prompt: SoftPrompt | None = None
    adapters: tuple[Adapter, ...] = ()
    sharing: Sharing = field(default_factory=Sharing)
    objective: Supervised = field(default_factory=Likelihood)
    proximal: Annotated[float, Ge(0), Le(1e6)] = field(default=0.0, metadata={"needs": (BOTH_FACTORS,)})
    optimiser: Optimiser = field(default_factory=AdamW)
    activation_codec: Codec = field(default_factory=Bf16, metadata={"message": "activations", "needs": (CUT,)})
    gradient_codec: Codec = field(default_factory=Bf16, metadata={"message": "gradients", "needs": (CUT,)})
    choose_codecs: bool = field(default=False, metadata={"needs": (CUT,)})
    codec_candidates: tuple[CodecCandidate, ...] = ()
    adapter_codec: tuple[Transform, ...] = field(
        default=(Fp32(),), metadata={"message": "adapters", "needs": (ADAPTERS,)}
    )
    link: Link = field(default_factory=Reliable, metadata={"message": "adapters"})
    screening: Screening | None = field(default=None, metadata={"message": "adapters"})
    filters: tuple[Filter, ...] = field(default=(), metadata={"message": "adapters"})
    mixing: Mixing = field(default_factory=AverageFactors, metadata={"message": "adapters"})
    exchange: Exchange = field(default_factory=Star, metadata={"message": "adapters"})
    privacy: Gaussian | None = field(default=None, metadata={"message": "adapters"})
    planner: Planner = field(default_factory=Optimal)
    selection: Selection = field(default_factory=All)
    replan: Literal["every_round", "never"] = field(
        default="every_round", metadata={"needs": (ADAPTERS,), "removes": (NEW_PLANS,)}
    )
    price_downlink: bool = field(default=False, metadata={"needs": (ADAPTERS,)})
    server_shares: Literal["together", "optimal"] = field(default="together", metadata={"needs": (AT_ONCE,)})
    rounds_to_target: dict[int, Rounds] = field(default_factory=dict[int, Rounds])
    slowest_seeds: Annotated[float, Gt(0), Le(1)] = 1.0
    alignment: LocalAlignment | None = None
    phases: tuple[PhasePart, ...] = ()
    client_model: ClientModel | None = None
    server_steps: ServerSteps | None = None
    turns: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        require_rounds(self.rounds_to_target)

    def chain(self, num_clients: int) -> Chain:
        """What is done to a client's update on its way: what depends on no data, then privacy, then all else."""
        public = tuple(takewhile(lambda one: one.public, self.adapter_codec))
        private = () if self.privacy is None else self.privacy.chain(num_clients)
        return (*public, *private, *self.adapter_codec[len(public) :])

    @property
    def beside_lora(self) -> tuple[ModelAdapter, ...]:
        """The kinds of adapters whose size no rank changes."""
        named = (self.bottleneck, self.soft_prompt)
        return (*(one for one in named if one is not None), *self.adapters)

    @property
    def makes(self) -> Callable[[Any], None] | None:
        """What makes the clients' model of a stock one that was opened; None: theirs is the servers'."""
        return None if self.client_model is None else self.client_model.make

    @property
    def shared_beside_lora(self) -> tuple[ModelAdapter, ...]:
        """Those of them that clients share."""
        return tuple(one for one in self.beside_lora if self.sharing.shares(one.name))

    def turns_of(self, local_steps: int) -> tuple[tuple[str, ...], ...]:
        """The kinds that each local step of a round trains; none: all train in all.

        >>> method = Method("in turn", turns=(("lora",), ("prefix",)))
        >>> method.turns_of(3), method.turns_of(1)
        ((('lora',), ('lora',), ('prefix',)), (('lora', 'prefix'),))
        """
        count, found = len(self.turns), list[tuple[str, ...]]()
        for step in range(local_steps if count else 0):
            first, end = step * count // local_steps, (step + 1) * count // local_steps
            found.append(tuple(kind for turn in self.turns[first : max(end, first + 1)] for kind in turn))
        return tuple(found)

    @property
    def simulated_only(self) -> str:
        """Which part devices cannot have, and why; empty: they can have all."""
        named = (("exchange", self.exchange), ("client_model", self.client_model))
        why = {f"method.{name} {part.kind}": part.simulated_only for name, part in named if part is not None}
        return next((f"{part} is simulated only, as {reason}" for part, reason in why.items() if reason), "")

    @property
    def prompt_tokens(self) -> int:
        """Tokens that adapters add before every text."""
        return sum(adapter.prompt_tokens for adapter in self.beside_lora)

    @property
    def key_tokens(self) -> int:
        """Positions whose keys and values adapters add before every text."""
        return sum(adapter.key_tokens for adapter in self.beside_lora)

    @property
    def unsent(self) -> frozenset[str]:
        """The factors of shared LoRA that stay where they are."""
        return self.sharing.unsent(self.mixing)

    @property
    def server_filters(self) -> tuple[Filter, ...]:
        """What a server does to the updates that came: fills gaps, refuses misfits, its own."""
        return (self.link.lost, *(() if self.screening is None else (self.screening,)), *self.filters)

    @property
    def one_for_all(self) -> bool:
        """Whether all clients have one cut and one rank, given or left to the planner."""
        return not {ONE_CUT, ONE_RANK} & {*self.topology.removed(), *self.lora.removed()}

    def check(self, num_clients: int, num_layers: int, width: int) -> None:
        """Raise ConfigError where the parts do not fit each other, the clients or the model."""
        parts.check(self, "method", Extent(num_clients, num_layers, width))

    def prices_downlink(self, in_world: bool) -> bool:
        """Whether the way back takes time: as the method or the world has it, where adapters cross the air."""
        crosses = not any(ADAPTERS in place.removes for place in parts.places(self, "method"))
        return self.price_downlink or (in_world and crosses)

    def fits(self, path: str, extent: Extent) -> None:
        """Refuse choices that are left to the planner without anything to choose among."""
        if self.choose_codecs and not self.codec_candidates:
            raise ConfigError(
                f"{path}.choose_codecs needs codecs to choose among; set {path}.codec_candidates, or give the table "
                "that `wavetune measure-codecs` writes with --codec-table"
            )
        self._check_kinds(path)
        last = self.sharing.trained_layers or extent.num_layers
        if last < extent.num_layers and (self.prompt_tokens or self.key_tokens):
            raise ConfigError(
                f"{path}.sharing.trained_layers is {last}, and vectors before a text that stand below the last {last} "
                f"of {extent.num_layers} blocks would stay as random as they begin; leave it out, or them"
            )
        mixing, optimiser = self.mixing, self.optimiser
        ways = (
            ("sends {} beside its broadcast", mixing.beside, "is to be told {}", optimiser.told),
            ("hears {} beside updates", mixing.hears, "tells {}", optimiser.tells),
        )
        for one, of_server, other, of_clients in ways:
            if {*of_server} != {*of_clients}:
                sent, told = (", ".join(names) or "nothing" for names in (of_server, of_clients))
                raise ConfigError(
                    f"{path}.mixing {mixing.kind} {one.format(sent)} and {path}.optimiser {optimiser.kind} "
                    f"{other.format(told)}; set both to parts that belong together"
                )
        if unknown := {*optimiser.tells} - {*optimiser.remembered}:
            raise ConfigError(
                f"{path}.optimiser {optimiser.kind} tells {min(unknown)!r}, which it does not remember; "
                f"{nearest(min(unknown), optimiser.remembered)}"
            )
        if self.lora.rank is not None:
            return
        if not self.rounds_to_target:
            raise ConfigError(
                f"{path}.lora.rank is not set and {path}.rounds_to_target is empty, so no rank can be chosen; "
                "set a rank or give the table that `wavetune measure-ranks` writes"
            )
        for rank in self.rounds_to_target:
            require_per_client(f"{path}.rounds_to_target", rank, extent.num_clients, extent.width, NARROWEST)

    def _check_kinds(self, path: str) -> None:
        """Refuse two kinds of adapters of one name or before every text, and to share what is none."""
        if self.key_tokens and self.prompt_tokens:
            raise ConfigError(
                f"{path}.soft_prompt and prefixes in {path}.adapters both stand before every text, and PEFT puts one "
                "of them there; leave one out"
            )
        names = ["lora", "bottleneck", "head", "prompt"]
        for one in self.adapters:
            if one.name in names:
                raise ConfigError(
                    f"{path}.adapters has a kind called {one.name!r}, as another is; give its class another `name`"
                )
            names.append(one.name)
        present = {one.name for one in self.beside_lora} | ({"lora"} if self.lora.rank != 0 else set[str]())
        for kind in (kind for turn in self.turns for kind in turn):
            if kind not in present:
                raise ConfigError(f"{path}.turns has {kind!r}, which is not trained; {nearest(kind, sorted(present))}")
        if not all(self.turns):
            raise ConfigError(f"{path}.turns has an entry without a kind, in which nothing would be trained; fill it")
        for kind in self.sharing.shared or ():
            if kind not in names:
                raise ConfigError(
                    f"{path}.sharing.shared has {kind!r}, which is no kind of adapter; {nearest(kind, names)}"
                )
