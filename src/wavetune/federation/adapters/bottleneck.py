"""Bottleneck adapters in a block: where they stand and how wide they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, get_args

from annotated_types import Ge, Le

from wavetune.costs.adapter import Behind, BlockMaps, Matrix
from wavetune.errors import ConfigError, ModelError
from wavetune.models.adapter import ModelAdapter, Segment, Stacks
from wavetune.parts import Part

if TYPE_CHECKING:
    from torch import Tensor

Place = Literal["attention", "feed_forward"]
"""What a bottleneck follows: the map that ends attention, or the one that ends the MLP."""

PLACES: tuple[Place, ...] = get_args(Place)


@dataclass(frozen=True)
class Bottleneck(ModelAdapter, Part):
    """Adapters of Houlsby et al. (2019) without biases: `y + gelu(y W_down) W_up` on what attention or MLP yields.

    Args:
        width: columns of W_down, m; small beside the model's width d.
        places: the halves of every block that carry one: "attention", "feed_forward" or both.

    Raises:
        ConfigError: the width is below 1, or the places are none, unknown or twice the same.
    """

    name = "bottleneck"
    reads_input = False
    width: Annotated[int, Ge(1), Le(65536)] = 64
    places: tuple[Place, ...] = ("feed_forward",)

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ConfigError(f"bottleneck.width is {self.width}; it must be at least 1")
        if not self.places or len(set(self.places)) < len(self.places) or not set(self.places) <= set(PLACES):
            raise ConfigError(f"bottleneck.places is {list(self.places)}; name one or both of {', '.join(PLACES)}")

    def behind(self, block: BlockMaps, hidden_size: int) -> Sequence[Behind]:
        """A place's 2 d m values, W_down as A and W_up as B.

        Forward it costs 4 d m FLOP a token; backward 2 d m each for its hidden values' and its input's gradient, and
        4 d m for its own. It keeps its hidden values before the activation, and its input if it trains.
        """
        product = 2 * hidden_size * self.width
        down, up = Matrix("A", hidden_size, self.width, True, "uniform"), Matrix("B", hidden_size, self.width)
        work = (2 * product, product, product, 2 * product, self.width, hidden_size)
        return [Behind(self._end(block, place), (down, up), "B", *work) for place in self.places]

    def _end(self, block: BlockMaps, place: Place) -> str:
        end = block.attention_end if place == "attention" else block.feed_forward_end
        if not end:
            raise ModelError(
                f"the model's blocks have no single linear map for a bottleneck after {place.replace('_', '-')}; "
                "choose the other of method.bottleneck.places, or LoRA alone"
            )
        return end

    def forward(self, x: Tensor, y: Tensor, matrices: Mapping[str, Tensor]) -> Tensor:
        """One client's."""
        from wavetune.models.bottleneck import bottleneck

        return bottleneck(y, matrices["A"], matrices["B"])

    def stacked(
        self, x: Tensor, y: Tensor, segments: Sequence[Segment], local: Stacks | None, shared: Stacks | None
    ) -> Tensor:
        """All clients' at once, as far as they can be."""
        from wavetune.models.bottleneck import stacked_bottleneck

        return stacked_bottleneck(y, segments, local, shared)
