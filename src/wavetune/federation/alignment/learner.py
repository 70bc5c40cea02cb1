"""The model that a stage of alignment trains: all clients' private LoRA, with their optimisers, and its reference.

Legend: K clients, S samples, D width.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wavetune.data.batching import Batching, batch_indices
from wavetune.data.examples import Example
from wavetune.data.templates import PlainTemplate, Template, ends_of, prompt_ids, text_template
from wavetune.errors import ConfigError, NumericsError
from wavetune.federation.memory import default_tokens_per_pass
from wavetune.federation.objectives import AlignmentSettings
from wavetune.federation.objectives.distance import weight_distance
from wavetune.federation.optimise import StackedOptimiser
from wavetune.federation.run_folder import fitting, part_of
from wavetune.models.backbone import Backbone
from wavetune.models.classifier import head_of
from wavetune.models.lora import AdapterBank, named_matrices
from wavetune.models.stopping import own_ends
from wavetune.units import Array, Ints


@dataclass(frozen=True)
class Model:
    """The model that a stage aligns: its clients' adapters, none shared between them, and the base that all have.

    `template` says how a prompt is written. Divergence is measured from the adapters `reference`, by default the same
    ones without LoRA. `tokens_per_pass` bounds what goes through the model at once (None: as the device bears).
    """

    backbone: Backbone
    bank: AdapterBank
    tokenizer: Any
    template: Template = field(default_factory=PlainTemplate)
    reference: AdapterBank | None = None
    tokens_per_pass: int | None = None


class Learner:
    """Policy, reference, value heads and optimisers of K clients; `steps_done` counts the steps of the stage.

    Raises: ConfigError if there is no LoRA, or some of it is shared between clients.
    """

    def __init__(self, model: Model, settings: AlignmentSettings, seed: int, client_ids: Sequence[int]) -> None:
        backbone, bank = model.backbone, model.bank
        self.backbone, self.tokenizer, self.settings, self.seed = backbone, model.tokenizer, settings, seed
        self.client_ids = tuple(client_ids)
        self.template = text_template(model.template, (), self.tokenizer)
        self.ends = ends_of(self.template, self.tokenizer, own_ends(backbone.model))  # token sequences: ends of answers
        self.tokens_per_pass = model.tokens_per_pass or default_tokens_per_pass(backbone)
        self.lora = bank.only(("lora",))
        if not self.lora.sites or not bank.local_LK.all():
            raise ConfigError("alignment trains private LoRA, but there is none, or clients share some block's")
        self.policy = _with_lora_alone_trained(bank)
        self.reference = model.reference or bank.only({site.kind for site in bank.sites} - {"lora"})
        self.optimiser = StackedOptimiser(self.lora, settings.optimiser)
        self.values: AdapterBank | None = None
        self.value_optimiser: StackedOptimiser | None = None
        value_rate = settings.objective.value_learning_rate
        if value_rate:
            self.values = _value_heads(backbone, self.num_clients)
            self.value_optimiser = StackedOptimiser(self.values, settings.optimiser.constant(value_rate))
        self.steps_done = 0

    @property
    def num_clients(self) -> int:
        """Size of the cohort."""
        return len(self.client_ids)

    def prompt_ids(self, examples: Sequence[Example]) -> list[list[int]]:
        """Token ids of what stands before each answer, cut to the longest prompt."""
        return prompt_ids(examples, self.tokenizer, self.template, self.settings.max_prompt_tokens)

    def drawn(self, available: int, client: int, count: int, step: int) -> list[int]:
        """Which `count` of a client's rows a step takes, from seeded permutations, one an epoch."""
        nothing = np.zeros(available, np.int64)
        return batch_indices(nothing, Batching(count, "none"), self.seed, self.client_ids[client], step).tolist()

    def advance(self) -> None:
        """One step of every client's optimisers, each client's gradient clipped on its own."""
        if self.settings.distance_coefficient:
            (self.settings.distance_coefficient * weight_distance(self.lora).sum()).backward()  # pyright: ignore[reportUnknownMemberType]
        factor = self.settings.optimiser.factor(self.steps_done, self.settings.steps)
        self.optimiser.step_clients(factor)
        if self.value_optimiser is not None:
            self.value_optimiser.step_clients(factor)

    def tensor(self, values: Array) -> Tensor:
        """An array where the model is, in its precision."""
        return torch.as_tensor(values).to(self.backbone.device, self.backbone.dtype)

    def means(self, values: NDArray[Any], client: Ints) -> Array:
        """Mean of the values of each client. `[K]`."""
        return np.bincount(client, values, self.num_clients) / np.bincount(client, minlength=self.num_clients)

    def checked(self, metrics: dict[str, Array]) -> dict[str, Array]:
        """The metrics themselves. Raises NumericsError if one is not finite."""
        for name, values_K in metrics.items():
            for identity, value in zip(self.client_ids, values_K.tolist(), strict=True):
                if not np.isfinite(value):
                    raise NumericsError(f"{name} of client {identity} at alignment step {self.steps_done} is {value}")
        return metrics

    def state(self) -> dict[str, Tensor]:
        """Adapters, value heads and moments, by name."""
        found = {"steps_done": torch.tensor(self.steps_done)}
        for prefix, bank, optimiser in self._trained():
            found |= {f"{prefix}.{name}": p.detach().clone() for name, p in named_matrices(bank.local)}
            found |= {f"{prefix}_optimiser.{name}": t.clone() for name, t in optimiser.state().items()}
        return found

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned."""
        for prefix, bank, optimiser in self._trained():
            for name, parameter in named_matrices(bank.local):
                parameter.copy_(fitting(state, f"{prefix}.{name}", parameter))
            optimiser.load_state(part_of(state, f"{prefix}_optimiser."))
        self.steps_done = int(state["steps_done"])

    def _trained(self) -> Iterator[tuple[str, AdapterBank, StackedOptimiser]]:
        yield "lora", self.lora, self.optimiser
        if self.values is not None and self.value_optimiser is not None:
            yield "value", self.values, self.value_optimiser


def _with_lora_alone_trained(bank: AdapterBank) -> AdapterBank:
    """The same adapters, of which all but LoRA give no gradient."""
    frozen = {site.name for site in bank.sites if site.kind != "lora"}
    detached = {site: {n: t.detach() for n, t in bank.local[site].items()} for site in frozen}
    return replace(bank, local=bank.local | detached)


def _value_heads(backbone: Backbone, num_clients: int) -> AdapterBank:
    """One linear map for each client from the final norm to the reward that is still to come, all zeros."""

    def zeros(*shape: int) -> torch.Tensor:
        return torch.zeros(shape, device=backbone.device, dtype=backbone.dtype, requires_grad=True)

    width = backbone.width
    stacks = {"value": {"A": zeros(num_clients, width, 1), "B": zeros(num_clients, 1, 1)}}
    return AdapterBank((head_of(width, 1, 0, "value"),), np.ones((1, num_clients), np.bool_), 1.0, stacks, {})
