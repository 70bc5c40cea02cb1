"""Optimisers of stacked adapters: elementwise, so one is K optimisers. Clipping takes a norm per slot and block.

Every slot counts its own steps, since clients may sit out. Legend: K clients, S slots of a stack.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import reduce
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Self, cast

from annotated_types import Ge, Le, Lt

from wavetune.federation.facts import CUT
from wavetune.federation.messages import EVERYTHING, Agenda
from wavetune.federation.run_folder import fitting
from wavetune.guarded import Checks, pair_of
from wavetune.parts import Part

if TYPE_CHECKING:
    from torch import Tensor

    from wavetune.models.lora import AdapterBank

Moments = dict[str, "Tensor"]


class Going(NamedTuple):
    """How a stack is advanced: `rate`, the learning rate now, and `step_S`, which step of its own each slot makes, from
    1 on, `[S, 1, 1]`. So many steps of the round are `done`; in the `first` the values are what the round starts from.
    What is `shared` is exchanged at the round's end.
    """

    rate: float
    step_S: Tensor
    done: int
    shared: bool

    @property
    def first(self) -> bool:
        """Whether it is the first step of the round."""
        return not self.done


def _check_advance(_: Optimiser, found: Any, value: Tensor, grad: Tensor, moments: Moments, *__: Any) -> str:
    pair = pair_of(found)
    kept = cast("dict[str, Any]", pair[1]) if pair is not None and isinstance(pair[1], dict) else {}
    shapes = [getattr(one, "shape", None) for one in (*(pair or ())[:1], *kept.values())]
    if kept.keys() != moments.keys() or shapes != [value.shape] * (1 + len(kept)):
        return f"values {list(value.shape)} and its moments by name, {list(moments)}, of the same shape"
    return ""


class Optimiser(Part):
    """How clients, and servers behind a cut, go along the gradients of what they train: value by value."""

    usual = "adamw"
    checks: ClassVar[Checks] = {"advance": _check_advance}
    moments: ClassVar[tuple[str, ...]] = ()  # what is remembered of every value between steps, zero at first
    told: ClassVar[tuple[str, ...]] = ()  # moments too, which the mixing rule sends beside what is broadcast
    tells: ClassVar[tuple[str, ...]] = ()  # those of all that go up beside what clients send
    learning_rate: float = 2e-4
    server_learning_rate: float | None = None  # of a server behind a cut; None: the same
    max_grad_norm: float | None = None  # that gradients are scaled down to
    schedule: Literal["constant", "linear", "cosine"] = "constant"

    @property
    def remembered(self) -> tuple[str, ...]:
        """All moments, what it is told last."""
        return (*self.moments, *self.told)

    def factor(self, step: int, total_steps: int) -> float:
        """Fraction of the full rate at a local step of the run, counted from 0."""
        return 1.0

    def advance(self, value: Tensor, grad: Tensor, moments: Moments, going: Going) -> tuple[Tensor, Moments]:
        """Values and moments after a step, `[S, ...]` each, of S slots; the given ones may be changed in place."""
        raise NotImplementedError

    def constant(self, learning_rate: float) -> Self:
        """The same at a rate that stays."""
        wanted = {"learning_rate": learning_rate, "schedule": "constant", "warmup_steps": 0}
        own = {f.name for f in fields(cast("Any", self))}
        return replace(cast("Any", self), **{name: value for name, value in wanted.items() if name in own})


@dataclass(frozen=True)
class AdamW(Optimiser):
    """AdamW on both sides of the cut, with one learning-rate schedule over all local steps of the run.

    `warmup_steps` rise linearly to the full rate; then it stays constant, or falls to zero at the last step along a
    line or a half cosine. `max_grad_norm` bounds the norm of a gradient; None does not. Each of the model's L blocks
    has an equal share of it: the gradient of a block's adapters, every client's own and the server's, is scaled down to
    a norm of at most `max_grad_norm / sqrt(L)`. So it changes nothing where the model is cut.
    """

    kind = "adamw"
    moments = ("exp_avg", "exp_avg_sq")
    learning_rate: Annotated[float, Ge(1e-12), Le(1e30)] = 2e-4
    server_learning_rate: Annotated[float, Ge(1e-12), Le(1e30)] | None = field(default=None, metadata={"needs": (CUT,)})
    weight_decay: Annotated[float, Ge(0), Le(1e3)] = 0.01
    beta1: Annotated[float, Ge(0), Lt(1)] = 0.9
    beta2: Annotated[float, Ge(0), Lt(1)] = 0.999
    epsilon: Annotated[float, Ge(1e-30), Le(1e6)] = 1e-8
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    warmup_steps: Annotated[int, Ge(0)] = 10
    max_grad_norm: Annotated[float, Ge(1e-12), Le(1e12)] | None = 1.0

    def factor(self, step: int, total_steps: int) -> float:
        """Fraction of the full rate at a step counted from 0.

        >>> AdamW(warmup_steps=2).factor(0, 12), AdamW(warmup_steps=2).factor(7, 12)
        (0.5, 0.5)
        """
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return 1.0
        done = min(1.0, (step - self.warmup_steps) / max(1, total_steps - self.warmup_steps))
        return 1 - done if self.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))

    def advance(self, value: Tensor, grad: Tensor, moments: Moments, going: Going) -> tuple[Tensor, Moments]:
        """One step of AdamW (arXiv 1711.05101), in place."""
        mean, square = moments.values()
        mean.lerp_(grad, 1 - self.beta1)
        square.mul_(self.beta2).addcmul_(grad, grad, value=1 - self.beta2)
        corrected = [(1 - beta ** going.step_S.double()).to(grad.dtype) for beta in (self.beta1, self.beta2)]
        value.mul_(1 - going.rate * self.weight_decay)
        value.sub_(going.rate / corrected[0] * mean / (square.sqrt() / corrected[1].sqrt() + self.epsilon))
        return value, moments


class StackedOptimiser:
    """The optimisers of a bank: one for each client's slots, one for the server's."""

    def __init__(self, bank: AdapterBank, settings: Optimiser) -> None:
        self.bank, self.settings = bank, settings
        self._moments: dict[str, dict[str, Tensor]] = {}
        self._sites: dict[str, str] = {}  # of what is trained
        self._shared: Collection[str] = ()
        self._done = Counter[tuple[str, int]]()  # steps of the round that each slot has made
        self._trained = {side: tuple(self._trainable(side)) for side in ("clients", "server")}

    def begin_round(self, shared: Collection[str]) -> None:
        """A round starts, at whose end the adapters of these names are exchanged."""
        self._shared, self._done = shared, Counter[tuple[str, int]]()

    def train(self, agenda: Agenda = EVERYTHING, kinds: Collection[str] | None = None) -> None:
        """Let what is on the agenda and of these kinds alone have gradients (None: of all that are trained)."""
        trained = {id(own) for side in self._trained.values() for _, _, own in side}
        for site in self.bank.sites:
            due = agenda.has(site.layer) and (kinds is None or site.kind in kinds)
            still = agenda.frozen if site.ranked else frozenset[str]()
            for stacks in (self.bank.local, self.bank.shared):
                for name, parameter in stacks.get(site.name, {}).items():
                    if id(parameter) in trained:
                        parameter.requires_grad_(due and name not in still)

    def step_clients(self, factor: float, active_K: Sequence[bool] | None = None) -> None:
        """Clip each client's gradients, update the active clients (all if None), drop the gradients."""
        self._clip("clients")
        for name, owner_S, parameter in self._trained["clients"]:
            slots = None
            if active_K is not None and not all(active_K):
                slots = [slot for slot, owner in enumerate(owner_S) if active_K[owner]]
            self._advance(name, parameter, self.settings.learning_rate * factor, slots)

    def step_server(self, factor: float) -> None:
        """Clip the server's gradients, update the server, drop the gradient."""
        self._clip("server")
        rate = (self.settings.server_learning_rate or self.settings.learning_rate) * factor
        for name, _, parameter in self._trained["server"]:
            self._advance(name, parameter, rate, None)

    def reset(self) -> None:
        """Forget all moments: the factors now stand in another basis."""
        self._moments.clear()

    def state(self) -> dict[str, Tensor]:
        """Every moment and step count, named by its place."""
        return {f"{name}.{key}": value for name, entry in self._moments.items() for key, value in entry.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned. Raises RunFolderError where it does not fit."""
        self._moments.clear()
        for side in ("clients", "server"):
            for name, _, parameter in self._trained[side]:
                if f"{name}.step" in state:
                    for key, stack in self._entry(name, parameter).items():
                        stack.copy_(fitting(state, f"{name}.{key}", stack))

    def client_moments(self, clients: Container[int]) -> dict[str, Tensor]:
        """Moments and step counts of some clients, `[their slots, ...]`, named by site, matrix and moment."""
        return {
            f"{place}.{key}": stack[slots]
            for name, place, slots, _ in self._places(clients)
            for key, stack in self._moments.get(name, {}).items()
        }

    def load_client_moments(self, clients: Container[int], moments: Mapping[str, Tensor]) -> None:
        """Continue for these clients from what `client_moments` returned, here or where a bank holds other clients."""
        for name, place, slots, parameter in self._places(clients):
            if f"{place}.step" in moments:
                for key, stack in self._entry(name, parameter).items():
                    stack[slots] = moments[f"{place}.{key}"].to(stack.device)

    def told(self, client: int) -> dict[str, Tensor]:
        """What a client was last told of its values, named by moment, site and matrix; nothing before it was."""
        return self._known(client, self.settings.told)

    def tells(self, client: int) -> dict[str, Tensor]:
        """What a client tells of its values, named as in `told`; nothing before it trained."""
        return self._known(client, self.settings.tells)

    def _known(self, client: int, names: Sequence[str]) -> dict[str, Tensor]:
        return {
            f"{what}.{place}": self._moments[name][what][slots[0]]
            for name, place, slots, _ in self._places((client,))
            for what in names
            if name in self._moments
        }

    def tell(self, client: int, values: Mapping[str, Tensor]) -> None:
        """Have a client remember what came with a broadcast, named as in `told`; other names are passed over."""
        for name, place, slots, parameter in self._places((client,)):
            for what in self.settings.told:
                if (value := values.get(f"{what}.{place}")) is not None:
                    if value.shape != parameter.shape[1:]:
                        raise ValueError(f"{what} of {place} is {list(value.shape)}, not {list(parameter.shape[1:])}")
                    self._entry(name, parameter)[what][slots[0]] = value.to(parameter)

    def _places(self, clients: Container[int]) -> Iterator[tuple[str, str, list[int], Tensor]]:
        """Name, place (site and matrix), slots of these clients and stack of what they train."""
        places = {id(stack): f"{site}.{name}" for site, own in self.bank.local.items() for name, stack in own.items()}
        for name, owner_S, parameter in self._trained["clients"]:
            slots = [slot for slot, owner in enumerate(owner_S) if owner in clients]
            if slots:
                yield name, places[id(parameter)], slots, parameter

    def _entry(self, name: str, parameter: Tensor) -> dict[str, Tensor]:
        """Step counts and moments of a stack, zero where it was never advanced."""
        import torch

        if name not in self._moments:
            steps = {"step": torch.zeros(len(parameter), dtype=torch.float32, device=parameter.device)}
            self._moments[name] = steps | {key: torch.zeros_like(parameter) for key in self.settings.remembered}
        return self._moments[name]

    def _advance(self, name: str, parameter: Tensor, rate: float, some: Sequence[int] | None) -> None:
        """One step for some slots of a stack `[S, ...]`, all if None."""
        import torch

        own = [(name, slot) for slot in (range(len(parameter)) if some is None else some)]
        if parameter.grad is None or not own:
            parameter.grad = None
            return
        with torch.no_grad():
            names, stacks = self.settings.remembered, (*self._entry(name, parameter).values(), parameter)
            slots = None if some is None else torch.tensor(some, dtype=torch.int64, device=parameter.device)
            step, *moments, value, grad = (t if slots is None else t[slots] for t in (*stacks, parameter.grad))
            step += 1
            going = Going(rate, step.view(-1, 1, 1), self._done[own[0]], self._sites[name] in self._shared)
            value, kept = self.settings.advance(value, grad, dict(zip(names, moments, strict=True)), going)
            pairs = list(zip(stacks, (step, *(kept[key] for key in names), value), strict=True))
            given = {stack.untyped_storage().data_ptr() for stack in stacks}  # which another may be given back as
            parts = [t if t is s or t.untyped_storage().data_ptr() not in given else t.clone() for s, t in pairs]
            for stack, part in zip(stacks, parts, strict=True):
                if slots is not None:
                    stack[slots] = part
                elif part is not stack:
                    stack.copy_(part)
        self._done.update(own)
        parameter.grad = None

    def _trainable(self, side: str) -> Iterator[tuple[str, tuple[int, ...], Tensor]]:
        """Name, owners of the slots and stack of everything that a side trains."""
        stacks, index = self.bank.local if side == "clients" else self.bank.shared, 0
        for site in self.bank.sites:
            owner_S = tuple(self.bank.local_LK[site.layer].nonzero()[0].tolist()) if side == "clients" else (0,)
            for parameter in stacks.get(site.name, {}).values():
                if parameter.requires_grad:
                    self._sites[f"{side}.{index}"] = site.name
                    yield f"{side}.{index}", owner_S, parameter
                    index += 1

    def _clip(self, side: str) -> None:
        """Scale the gradients of each block's adapters, slot by slot, to their share of the largest norm."""
        import torch

        if self.settings.max_grad_norm is None:
            return
        limit = self.settings.max_grad_norm / math.sqrt(len(self.bank.local_LK))
        stacks = self.bank.local if side == "clients" else self.bank.shared
        for _, sites in groupby(sorted(self.bank.sites, key=attrgetter("layer")), attrgetter("layer")):
            gradients = [p.grad for site in sites for p in stacks.get(site.name, {}).values() if p.grad is not None]
            if gradients:
                # one after the other: the order in which torch adds a stack depends on how many slots it has
                squared_S = reduce(torch.add, (grad.flatten(1).pow(2).sum(1) for grad in gradients))
                scale_S = (limit / (squared_S.sqrt() + 1e-6)).clamp(max=1.0)  # as torch.nn.utils.clip_grad_norm_
                for grad in gradients:
                    grad.mul_(scale_S.view(-1, 1, 1))
