"""What a linear map yields, scaled value by value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wavetune.costs.adapter import Behind, BlockMaps, Matrix
from wavetune.federation.adapters.adapter import Adapter

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Scale(Adapter):
    """A trained factor for every value that the linear maps in `maps` yield, 1 at first: (IA)^3, arXiv 2205.05638.

    They are named by the ends of their paths, as in PEFT. No matrix product is added; what they yield is kept.
    """

    maps: tuple[str, ...] = ("k_proj", "v_proj", "down_proj")

    def behind(self, block: BlockMaps, hidden_size: int) -> Sequence[Behind]:
        """One row of as many values as a map yields, at each of these maps of a block."""
        return [
            Behind(p.name, (Matrix("factor", p.out_features, 1, start="one"),), saved_to_train=p.out_features)
            for p in block.projections
            if any(p.is_named(name) for name in self.maps)
        ]

    def forward(self, x: Tensor, y: Tensor, matrices: Mapping[str, Tensor]) -> Tensor:
        """One client's scaled values, `[tokens, out]`."""
        return y * matrices["factor"]
