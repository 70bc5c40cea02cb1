"""Costs of every layer of a model for a given amount of work. Shape suffix: L layers."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np

from wavetune.costs.adapter import FixedAdapter, values_of
from wavetune.costs.architecture import Architecture
from wavetune.costs.block import BlockCosts, block_costs
from wavetune.costs.operations import Block
from wavetune.errors import ConfigError
from wavetune.units import Array

Amount = float | Array
"""A number, or an array of any leading shape, such as clients [K] or steps and clients [I, K]."""


@dataclass(frozen=True)
class Workload:
    """What a batch contains, as the sums over its samples that costs depend on; exact for ragged batches.

    Args:
        samples: number of samples.
        tokens: sum of their lengths.
        token_pairs: sum of their squared lengths (every token attends over its sample).
        labelled: positions with a label, where head and loss are computed.
    """

    samples: Amount
    tokens: Amount
    token_pairs: Amount
    labelled: Amount

    @classmethod
    def from_lengths(cls, lengths: Iterable[int], labelled: float) -> Workload:
        """Workload of one batch of samples with the given lengths (tokens) and labelled positions in all.

        >>> Workload.from_lengths([3, 5], labelled=6)
        Workload(samples=2.0, tokens=8.0, token_pairs=34.0, labelled=6.0)
        """
        length = np.array(list(lengths), dtype=float)
        return cls(float(length.size), float(length.sum()), float(length @ length), float(labelled))


@dataclass(frozen=True)
class CostTable:
    """Costs of a model's layers with a frozen base and adapters on some modules; see `block_costs` for what is counted.

    Args:
        architecture: the model.
        lora_targets: names of the adapted modules, as PEFT takes them; `architecture.default_lora_targets` are PEFT's.
        input_needs_grad: whether something before the first block trains (a soft prompt), or gradient checkpointing
            forces a gradient there; if not, the first block's backward pass spares what only that would need.
        adapters: kinds of adapters beside LoRA whose size no rank changes, such as bottlenecks.
        frozen_adapters: whether they act but do not train, as where only LoRA is aligned.
        trained_blocks: the blocks whose adapters train, counted from 0 (None: all); below the lowest of them nothing
            needs a backward pass.
        outputs: outputs of a trained head on pooled samples (classes, or one reward), which then stands in the place of
            the head over the vocabulary.
        untouched_passes: forward passes of the base alone beside the one that learns, as where an objective compares
            the model with what it was.

    Raises:
        ConfigError: a target is no linear module of the architecture.

    >>> from wavetune.costs.architecture import PRESETS
    >>> table = CostTable(PRESETS["gpt2"], ("c_attn",))
    >>> work = Workload.from_lengths([512], labelled=100)
    >>> [float(flop) for flop in table.forward_flop(work)[:2]]
    [8053063680.0, 8053063680.0]

    The first block spares the gradient of its input, 2 x 768 x 2304 FLOP a token:

    >>> float(np.subtract(*table.backward_flop(work)[[1, 0]]) / 512)
    3538944.0
    """

    architecture: Architecture
    lora_targets: tuple[str, ...]
    input_needs_grad: bool = False
    adapters: tuple[FixedAdapter, ...] = ()
    frozen_adapters: bool = False
    outputs: int | None = None
    trained_blocks: tuple[int, ...] | None = None
    untouched_passes: int = 0

    def __post_init__(self) -> None:
        self.architecture.lora_projections(self.lora_targets)

    def with_trained(self, blocks: Collection[int] | None) -> CostTable:
        """The same where of the trained blocks only these train (None: all)."""
        if blocks is None:
            return self
        return replace(self, trained_blocks=tuple(layer for layer in blocks if self._trains(layer)))

    @cached_property
    def blocks(self) -> tuple[BlockCosts, ...]:
        """Costs of each of the L blocks; the first one may spare what only its input's gradient would need."""

        @cache
        def costs(block: Block, input_needs_grad: bool, trains: bool) -> BlockCosts:
            trained = block.lora_projections(self.lora_targets)
            width = self.architecture.hidden_size
            return block_costs(block, trained, input_needs_grad, width, self.adapters, self.frozen_adapters, trains)

        found, needs_grad = list[BlockCosts](), self.input_needs_grad
        for layer, block in enumerate(self.architecture.blocks):
            trains = self._trains(layer)
            found.append(costs(block, needs_grad, trains))
            needs_grad |= trains
        return tuple(found)

    def _trains(self, layer: int) -> bool:
        return self.trained_blocks is None or layer in self.trained_blocks

    @property
    def num_layers(self) -> int:
        """L, the number of blocks."""
        return self.architecture.num_layers

    @property
    def activation_values_per_token(self) -> int:
        """What crosses the boundary behind any block: the residual stream (values per token)."""
        return self.architecture.hidden_size

    @cached_property
    def lora_values_per_rank_L(self) -> Array:
        """Adapter parameters of each block per unit of rank (values)."""
        return self._each("lora_values_per_rank")

    @cached_property
    def fixed_values_L(self) -> Array:
        """Parameters of the adapters in each block whose size no rank changes (values).

        >>> from wavetune.costs.architecture import PRESETS
        >>> from wavetune.federation.adapters.bottleneck import Bottleneck
        >>> table = CostTable(PRESETS["gpt2"], ("c_attn",), adapters=(Bottleneck(64),))
        >>> float(32 * table.fixed_values_L.sum())  # bits of an upload in fp32
        37748736.0
        """
        return self._each("fixed_values")

    def values_L(self, adapter: FixedAdapter) -> Array:
        """Parameters of one of them in each block, those before the first block counted there (values)."""
        width = self.architecture.hidden_size
        values = [
            sum(values_of(b.matrices) for b in adapter.behind(block, width)) + values_of(adapter.attended(block))
            for block in self.architecture.blocks
        ]
        values[0] += values_of(adapter.before(width))
        return np.array(values, dtype=float)

    @property
    def outputs_values(self) -> int:
        """Weights and biases of the head on pooled samples (values)."""
        return 0 if self.outputs is None else (self.architecture.hidden_size + 1) * self.outputs

    @cached_property
    def saved_values_per_token_L(self) -> Array:
        """Activations each block keeps for the backward pass (values per token)."""
        return self._each("saved_values_per_token")

    @cached_property
    def saved_lora_values_per_token_L(self) -> Array:
        """Activations the adapters of each block keep (values per token and unit of rank)."""
        return self._each("saved_lora_values_per_token")

    def forward_flop(self, workload: Workload) -> Array:
        """Forward pass of the frozen blocks, [..., L] for a workload of shape [...] (FLOP)."""
        passes = 1 + self.untouched_passes
        return passes * self._flop(workload, "forward_flop_per_token", "forward_flop_per_pair")

    def backward_flop(self, workload: Workload) -> Array:
        """Backward pass of the frozen blocks, [..., L] (FLOP)."""
        return self._flop(workload, "backward_flop_per_token", "backward_flop_per_pair")

    def lora_forward_flop_per_rank(self, workload: Workload) -> Array:
        """Forward pass of the adapters per unit of rank, [..., L] (FLOP)."""
        return self._flop(workload, "lora_forward_flop_per_token")

    def lora_backward_flop_per_rank(self, workload: Workload) -> Array:
        """Backward pass of the adapters per unit of rank, [..., L] (FLOP)."""
        return self._flop(workload, "lora_backward_flop_per_token")

    def fixed_forward_flop(self, workload: Workload) -> Array:
        """Forward pass of the adapters whose size no rank changes, [..., L] (FLOP)."""
        return self._flop(workload, "fixed_forward_flop_per_token")

    def fixed_backward_flop(self, workload: Workload) -> Array:
        """Backward pass of the adapters whose size no rank changes, [..., L] (FLOP)."""
        return self._flop(workload, "fixed_backward_flop_per_token")

    def head_forward_flop(self, workload: Workload) -> Array:
        """Head at the labelled positions, or on the pooled samples, forward, [...] (FLOP).

        2 d V FLOP a position, or 2 d C a sample for C outputs. Ignores: the final norm, pooling and the loss, which
        hold no matrix product.

        >>> from wavetune.costs.architecture import PRESETS
        >>> table = CostTable(PRESETS["gpt2"], ("c_attn",))
        >>> float(table.head_forward_flop(Workload.from_lengths([512], labelled=1)))
        77194752.0
        """
        return (1 + self.untouched_passes) * self._head_flop(workload)

    def _head_flop(self, workload: Workload) -> Array:
        if self.outputs is not None:
            return 2.0 * self.architecture.hidden_size * self.outputs * np.asarray(workload.samples, dtype=float)
        return 2.0 * self.architecture.head_values * np.asarray(workload.labelled, dtype=float)

    def head_backward_flop(self, workload: Workload) -> Array:
        """Head, backward: frozen, it gives its input's gradient alone; on pooled samples it trains, [...] (FLOP)."""
        trains = self.outputs is not None and self._trains(self.num_layers - 1)
        return (2 if trains else 1) * self._head_flop(workload)

    def _each(self, field: str) -> Array:
        return np.array([getattr(block, field) for block in self.blocks], dtype=float)

    def _flop(self, workload: Workload, per_token: str, per_pair: str | None = None) -> Array:
        flop = np.asarray(workload.tokens, dtype=float)[..., None] * self._each(per_token)
        if per_pair is None:
            return flop
        return flop + np.asarray(workload.token_pairs, dtype=float)[..., None] * self._each(per_pair)


def check_cut(cut: Amount, num_layers: int, *, u_shape: bool = False) -> None:
    """Refuse cuts outside 0 (all on the server; 1 if the model is U-shaped) to `num_layers` (all on the client)."""
    lowest = 1 if u_shape else 0
    if np.any(np.less(cut, lowest)) or np.any(np.greater(cut, num_layers)):
        raise ConfigError(f"cut is {cut}; it must be from {lowest} to {num_layers}, the number of blocks on the client")


def check_rank(name: str, rank: Amount) -> None:
    """Refuse negative ranks."""
    if np.any(np.less(rank, 0)):
        raise ConfigError(f"{name} is {rank}; it must be at least 0")
