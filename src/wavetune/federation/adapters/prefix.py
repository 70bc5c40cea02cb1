"""Prefixes: trained keys and values that attention reads before those of a text (Li and Liang, ACL 2021)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le

from wavetune.costs.adapter import BlockMaps, Matrix
from wavetune.federation.adapters.adapter import Adapter


@dataclass(frozen=True)
class Prefix(Adapter):
    """Keys and values of so many positions before every text, in each block: arXiv 2101.00190, without its MLP.

    No token passes a block there, so that they cost attention alone. A key is as wide as all key heads together.
    """

    tokens: Annotated[int, Ge(1), Le(65536)] = 20

    @property
    def key_tokens(self) -> int:
        """Positions before every text."""
        return self.tokens

    def attended(self, block: BlockMaps) -> Sequence[Matrix]:
        """A key and a value for each position, near zero at first; none where nothing reads them."""
        widths = (("keys", block.key_width), ("values", block.value_width))
        return [Matrix(name, width, self.tokens, start="normal") for name, width in widths if width]
