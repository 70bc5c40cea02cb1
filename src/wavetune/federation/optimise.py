"""AdamW for stacked adapters: elementwise, so one optimiser is K optimisers. Clipping takes a norm per client."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (the stubs of torch and safetensors leave parts of their types open)

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Gt, Lt

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from wavetune.models.lora import AdapterBank


@dataclass(frozen=True)
class AdamW:
    """AdamW on both sides of the cut, with one learning-rate schedule over all local steps of the run.

    `warmup_steps` rise linearly to the full rate; then it stays constant, or falls to zero at the last step along a
    line or a half cosine. `max_grad_norm` clips each client's own gradient and the server's, each by its own norm; None
    does not clip.
    """

    learning_rate: Annotated[float, Gt(0)] = 2e-4
    server_learning_rate: Annotated[float, Gt(0)] | None = None
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
    """The optimisers of a bank: one over all clients' slots, one over the server's."""

    def __init__(self, bank: AdapterBank, settings: AdamW) -> None:
        self.bank, self.settings = bank, settings
        self.local = _adamw(list(bank.parameters(local=True)), settings)
        self.shared = _adamw(list(bank.parameters(local=False)), settings)

    def step_clients(self, factor: float) -> None:
        """Clip each client's gradient, update all clients, drop the gradients."""
        limit = self.settings.max_grad_norm
        if self.local is None:
            return
        if limit is not None:
            self._clip_clients(limit)
        _advance(self.local, self.settings.learning_rate * factor)

    def step_server(self, factor: float) -> None:
        """Clip the server's gradient, update the server, drop the gradient."""
        import torch

        if self.shared is None:
            return
        if self.settings.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.bank.parameters(local=False), self.settings.max_grad_norm)
        _advance(self.shared, (self.settings.server_learning_rate or self.settings.learning_rate) * factor)

    def reset(self) -> None:
        """Forget all moments: the factors now stand in another basis."""
        for optimiser in (self.local, self.shared):
            if optimiser is not None:
                optimiser.state.clear()

    def _clip_clients(self, limit: float) -> None:
        import torch

        num_clients = self.bank.local_LK.shape[1]
        squared_K = torch.zeros(num_clients, device=next(self.bank.parameters(local=True)).device)
        stacks = list(self._client_gradients())
        for clients, grad in stacks:
            squared_K.index_add_(0, clients, grad.flatten(1).pow(2).sum(1))
        scale_K = (limit / (squared_K.sqrt() + 1e-6)).clamp(max=1.0)  # as torch.nn.utils.clip_grad_norm_
        for clients, grad in stacks:
            grad.mul_(scale_K[clients].view(-1, 1, 1))

    def _client_gradients(self) -> Iterator[tuple[Tensor, Tensor]]:
        import torch

        for site in self.bank.sites:
            clients = torch.as_tensor(self.bank.local_LK[site.layer].nonzero()[0])
            for parameter in self.bank.local.get(site.name, ()):
                if parameter.grad is not None:
                    yield clients.to(parameter.device), parameter.grad

    def state(self) -> dict[str, Tensor]:
        """Every moment and step count, named by its place."""
        return {f"{name}.{key}": value for name, _, entry in self._entries() for key, value in entry.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned."""
        for name, parameter, entry in self._entries():
            for key in ("step", "exp_avg", "exp_avg_sq"):
                saved = state.get(f"{name}.{key}")
                if saved is not None:
                    entry[key] = saved.clone() if key == "step" else saved.to(parameter.device, copy=True)

    def _entries(self) -> Iterator[tuple[str, Tensor, dict[str, Tensor]]]:
        for side, optimiser in (("clients", self.local), ("server", self.shared)):
            if optimiser is not None:
                for index, parameter in enumerate(optimiser.param_groups[0]["params"]):
                    yield f"{side}.{index}", parameter, optimiser.state[parameter]


def _adamw(parameters: list[Tensor], settings: AdamW) -> torch.optim.AdamW | None:
    import torch

    trained = [p for p in parameters if p.requires_grad]
    if not trained:
        return None
    return torch.optim.AdamW(
        trained,
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
        foreach=True,
    )


def _advance(optimiser: torch.optim.AdamW, learning_rate: float) -> None:
    optimiser.param_groups[0]["lr"] = learning_rate
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
