"""What an adapter is made of, where it stands in a block, and what it costs there.

Legend: d width of a model's residual stream.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from wavetune.costs.operations import Projection


@dataclass(frozen=True)
class Matrix:
    """One named matrix of an adapter: so many components of `width` values, which are its rows when it is sent.

    Args:
        name: of the matrix among its adapter's, without a dot.
        width: values of a component.
        components: how many there are; None: as many as its client's LoRA has ranks.
        columns: whether it is held transposed, `[width, components]`, as what tokens are multiplied by.
        start: its first values: zeros, ones, uniform in plus or minus 1 / sqrt(width), or normal with deviation 0.02.
    """

    name: str
    width: int
    components: int | None = None
    columns: bool = False
    start: Literal["zero", "one", "uniform", "normal"] = "zero"

    def rows(self, rank: int) -> int:
        """Components of a client whose LoRA has this rank."""
        return rank if self.components is None else self.components


@dataclass(frozen=True)
class AdapterSite:
    """Where an adapter acts: its name, its block and its matrices. LoRA's is named after its module, as in PEFT.

    `kind` is what `method.sharing.shared` calls it. While the matrix `switch` is zero, the site leaves the model as it
    is; None: whatever its matrices are, it may act.
    """

    name: str
    layer: int
    kind: str
    matrices: tuple[Matrix, ...]
    switch: str | None = None

    @property
    def ranked(self) -> bool:
        """Whether it has as many components as its client has ranks, as the two factors of LoRA."""
        return any(matrix.components is None for matrix in self.matrices)


@dataclass(frozen=True)
class Behind:
    """An adapter on what a linear map of a block yields. Counted are matrix products, per token.

    Args:
        map: path of the linear map in its block.
        matrices: what is trained.
        switch: see `AdapterSite`.
        forward_flop: forward (FLOP).
        between_flop: backward, where its input needs a gradient or it trains (FLOP).
        input_flop: backward, where its input needs a gradient (FLOP).
        own_flop: backward, where it trains (FLOP).
        saved_between: values kept where its input needs a gradient or it trains.
        saved_to_train: values kept where it trains.
    """

    map: str
    matrices: tuple[Matrix, ...]
    switch: str | None = None
    forward_flop: int = 0
    between_flop: int = 0
    input_flop: int = 0
    own_flop: int = 0
    saved_between: int = 0
    saved_to_train: int = 0

    def backward_flop(self, trains: bool, reached: bool) -> int:
        """Backward, given whether it trains and whether its input needs a gradient (FLOP)."""
        return (trains or reached) * self.between_flop + reached * self.input_flop + trains * self.own_flop

    def saved_values(self, trains: bool, reached: bool) -> int:
        """What it keeps for the backward pass (values)."""
        return (trains or reached) * self.saved_between + trains * self.saved_to_train


class BlockMaps(Protocol):
    """The linear maps of a block: all that can carry an adapter, and those that end its two halves ("": none does)."""

    @property
    def projections(self) -> Sequence[Projection]:
        """Those that every token goes through once."""
        ...

    @property
    def attention_end(self) -> str:
        """The map that ends attention."""
        ...

    @property
    def feed_forward_end(self) -> str:
        """The map that ends the feed-forward half."""
        ...

    @property
    def key_width(self) -> int:
        """Values of a token's keys that attention reads; 0: none can be put before them."""
        ...

    @property
    def value_width(self) -> int:
        """Likewise its values."""
        ...


class FixedAdapter:
    """A kind of adapter whose size no rank changes: where its matrices stand in a model of width d."""

    @property
    def key_tokens(self) -> int:
        """Positions before every text whose keys and values it has in each block; no token passes there."""
        return 0

    def attended(self, block: BlockMaps) -> Sequence[Matrix]:
        """The matrices `keys` and `values` that a block's attention reads before those of a text, of all heads."""
        return ()

    def behind(self, block: BlockMaps, hidden_size: int) -> Sequence[Behind]:
        """The linear maps of a block behind which it stands."""
        return ()

    def before(self, hidden_size: int) -> Sequence[Matrix]:
        """What stands before the first block."""
        return ()


def values_of(matrices: Sequence[Matrix], rank: int = 0) -> int:
    """Parameters of matrices (values).

    >>> values_of([Matrix("A", 768), Matrix("B", 3 * 768)], rank=2), values_of([Matrix("scale", 768, 1)])
    (6144, 768)
    """
    return sum(matrix.width * matrix.rows(rank) for matrix in matrices)
