"""Bottleneck adapters in a block: where they stand and how wide they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from annotated_types import Ge

from wavetune.errors import ConfigError

Place = Literal["attention", "feed_forward"]
"""What a bottleneck follows: the map that ends attention, or the one that ends the MLP."""

PLACES: tuple[Place, ...] = get_args(Place)


@dataclass(frozen=True)
class Bottleneck:
    """Adapters of Houlsby et al. (2019) without biases: `y + gelu(y W_down) W_up` on what attention or MLP yields.

    Args:
        width: columns of W_down, m; small beside the model's width d.
        places: the halves of every block that carry one: "attention", "feed_forward" or both.

    Raises:
        ConfigError: the width is below 1, or the places are none, unknown or twice the same.
    """

    width: Annotated[int, Ge(1)] = 64
    places: tuple[Place, ...] = ("feed_forward",)

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ConfigError(f"bottleneck.width is {self.width}; it must be at least 1")
        if not self.places or len(set(self.places)) < len(self.places) or not set(self.places) <= set(PLACES):
            raise ConfigError(f"bottleneck.places is {list(self.places)}; name one or both of {', '.join(PLACES)}")

    def values(self, hidden_size: int) -> int:
        """Parameters in one block of a model of width d, 2 d m a place (values); at 32 bits 64 d m bits.

        >>> Bottleneck(64).values(768)
        98304
        """
        return 2 * hidden_size * self.width * len(self.places)
