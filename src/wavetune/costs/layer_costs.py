"""What each decoder block costs per sample: the cost arrays of a plan instance."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

from wavetune.units import Array


@dataclass(frozen=True)
class LayerCosts:
    """Costs of the L layers of a model, one entry per layer; a plain bundle that the planner optimises over.

    Args:
        forward_flop_L: frozen base and bottlenecks, forward, per sample (FLOP).
        backward_flop_L: frozen base and bottlenecks, backward, per sample (FLOP).
        lora_forward_flop_per_rank_L: adapters, forward, per sample and unit of rank (FLOP).
        lora_backward_flop_per_rank_L: adapters, backward, per sample and unit of rank (FLOP).
        activation_bits_L: what leaves the layer towards the next one, per sample (bits).
        lora_bits_per_rank_L: size of the layer's adapters per unit of rank (bits).
        memory_bytes_L: what the layer takes on a client for the whole batch (bytes).
        memory_bytes_per_rank_L: the part of it that grows with the rank, per unit of rank (bytes).
        adapter_bits_L: size of the layer's adapters that have no rank, such as bottlenecks (bits); None for none.
        gradient_bits_L: what comes back to the layer from the next one, per sample (bits); None for as much as leaves.
        download_share: bits of the adapters that come back per bit of those sent, whose codec may be another.
    """

    forward_flop_L: Array
    backward_flop_L: Array
    lora_forward_flop_per_rank_L: Array
    lora_backward_flop_per_rank_L: Array
    activation_bits_L: Array
    lora_bits_per_rank_L: Array
    memory_bytes_L: Array
    memory_bytes_per_rank_L: Array
    adapter_bits_L: Array | None = None
    gradient_bits_L: Array | None = None
    download_share: float = 1.0

    @property
    def num_layers(self) -> int:
        """L, the number of layers a cut can fall behind."""
        return len(self.forward_flop_L)

    @cached_property
    def before(self) -> Mapping[str, Array]:
        """By the name of each array, its sums over the first 0 to L layers. `[L + 1]`."""
        return self._sums(lambda cost_L: cost_L)

    @cached_property
    def behind(self) -> Mapping[str, Array]:
        """By the name of each array, its sums over the last 0 to L layers. `[L + 1]`."""
        return self._sums(lambda cost_L: cost_L[::-1])

    def _sums(self, ordered: Callable[[Array], Array]) -> Mapping[str, Array]:
        arrays = {f.name: getattr(self, f.name) for f in fields(self) if f.name.endswith("_L")}
        return {
            name: np.concatenate(([0.0], np.cumsum(ordered(cost_L))))
            for name, cost_L in arrays.items()
            if cost_L is not None
        }
