"""AdamW for stacked adapters: elementwise, so one optimiser is K optimisers. Clipping takes a norm per slot and block.

Every slot counts its own steps, since clients may sit out. Legend: K clients, S slots of a stack.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (the stubs of torch and safetensors leave parts of their types open)

from __future__ import annotations

import math
from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Gt, Lt

from wavetune.federation.facts import CUT
from wavetune.parts import Part

if TYPE_CHECKING:
    from torch import Tensor

    from wavetune.models.lora import AdapterBank


@dataclass(frozen=True)
class AdamW(Part):
    """AdamW on both sides of the cut, with one learning-rate schedule over all local steps of the run.

    `warmup_steps` rise linearly to the full rate; then it stays constant, or falls to zero at the last step along a
    line or a half cosine. `max_grad_norm` bounds the norm of a gradient; None does not. Each of the model's L blocks
    has an equal share of it: the gradient of a block's adapters, every client's own and the server's, is scaled down to
    a norm of at most `max_grad_norm / sqrt(L)`. So it changes nothing where the model is cut.
    """

    learning_rate: Annotated[float, Gt(0)] = 2e-4
    server_learning_rate: Annotated[float, Gt(0)] | None = field(default=None, metadata={"needs": (CUT,)})
    weight_decay: Annotated[float, Ge(0)] = 0.01
    beta1: Annotated[float, Ge(0), Lt(1)] = 0.9
    beta2: Annotated[float, Ge(0), Lt(1)] = 0.999
    epsilon: Annotated[float, Gt(0)] = 1e-8
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    warmup_steps: Annotated[int, Ge(0)] = 10
    max_grad_norm: Annotated[float, Gt(0)] | None = 1.0

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


class StackedOptimiser:
    """The optimisers of a bank: one for each client's slots, one for the server's."""

    def __init__(self, bank: AdapterBank, settings: AdamW) -> None:
        self.bank, self.settings = bank, settings
        self._moments: dict[str, dict[str, Tensor]] = {}
        self._trained = {side: tuple(self._trainable(side)) for side in ("clients", "server")}

    def train(self, blocks: Collection[int] | None, kinds: Collection[str] | None = None) -> None:
        """Let the adapters of these blocks and kinds alone have gradients (None: all that are trained); others stay."""
        for site in self.bank.sites:
            for parameter in (p for b in (self.bank.local, self.bank.shared) for p in b.get(site.name, {}).values()):
                if any(parameter is own for _, _, own in (*self._trained["clients"], *self._trained["server"])):
                    due = (blocks is None or site.layer in blocks) and (kinds is None or site.kind in kinds)
                    parameter.requires_grad_(due)

    def step_clients(self, factor: float, active_K: Sequence[bool] | None = None) -> None:
        """Clip each client's gradients, update the active clients (all if None), drop the gradients."""
        import torch

        self._clip("clients")
        for name, owner_S, parameter in self._trained["clients"]:
            slots = None
            if active_K is not None and not all(active_K):
                own = [slot for slot, owner in enumerate(owner_S) if active_K[owner]]
                slots = torch.tensor(own, dtype=torch.int64)
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
        """Continue from what `state` returned."""
        self._moments.clear()
        for side in ("clients", "server"):
            for name, _, parameter in self._trained[side]:
                if f"{name}.step" in state:
                    entry = {key: state[f"{name}.{key}"] for key in ("step", "exp_avg", "exp_avg_sq")}
                    self._moments[name] = {key: t.to(parameter.device, copy=True) for key, t in entry.items()}

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
            zeros = (torch.zeros_like(parameter) for _ in range(2))
            steps = torch.zeros(len(parameter), device=parameter.device)
            self._moments[name] = dict(zip(("step", "exp_avg", "exp_avg_sq"), (steps, *zeros), strict=True))
        return self._moments[name]

    def _advance(self, name: str, parameter: Tensor, rate: float, slots: Tensor | None) -> None:
        """One step of AdamW (arXiv 1711.05101) for some slots of a stack `[S, ...]`, all if None."""
        import torch

        grad, settings = parameter.grad, self.settings
        if grad is None:
            return
        with torch.no_grad():
            stacks = (*self._entry(name, parameter).values(), parameter, grad)
            if slots is not None:
                slots = slots.to(parameter.device)
                stacks = tuple(stack[slots] for stack in stacks)
            step, mean, square, value, grad = stacks
            step += 1
            mean.lerp_(grad, 1 - settings.beta1)
            square.mul_(settings.beta2).addcmul_(grad, grad, value=1 - settings.beta2)
            corrected = [
                (1 - beta ** step.double()).to(grad.dtype).view(-1, 1, 1) for beta in (settings.beta1, settings.beta2)
            ]
            value.mul_(1 - rate * settings.weight_decay)
            value.sub_(rate / corrected[0] * mean / (square.sqrt() / corrected[1].sqrt() + settings.epsilon))
            if slots is not None:
                for stack, part in zip((*self._moments[name].values(), parameter), stacks, strict=False):
                    stack[slots] = part
        parameter.grad = None

    def _trainable(self, side: str) -> Iterator[tuple[str, tuple[int, ...], Tensor]]:
        """Name, owners of the slots and stack of everything that a side trains."""
        stacks, index = self.bank.local if side == "clients" else self.bank.shared, 0
        for site in self.bank.sites:
            owner_S = tuple(self.bank.local_LK[site.layer].nonzero()[0].tolist()) if side == "clients" else (0,)
            for parameter in stacks.get(site.name, {}).values():
                if parameter.requires_grad:
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
