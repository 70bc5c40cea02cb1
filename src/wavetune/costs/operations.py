"""The operations of one block as automatic differentiation meets them when the base is frozen and only adapters train.

A tensor needs a gradient where a trained value lies upstream. Upstream of a tensor of a block lie some of its linear
maps, which may carry a trained adapter, keys and values put before its attention (`PREFIX`), and what comes before the
block (`INPUT`); these names say when the tensor needs one. Nothing else about a block's structure is needed to know
what its backward pass computes and keeps.
"""

from collections.abc import Iterable
from dataclasses import dataclass

INPUT = "input"
"""Stands among the names of a block's linear maps for what comes before the block."""

PREFIX = "prefix"
"""Stands among them for trained keys and values before those that attention reads."""

ALL_LINEAR = "all-linear"
"""The target that means every linear map of the blocks, as in PEFT."""

Names = frozenset[str]


def named(path: str, targets: Iterable[str]) -> bool:
    """Whether one of PEFT's targets names the module at a dotted path: by all of it, or by its end from a dot on.

    >>> named("model.layers.0.mlp.down_proj", ["mlp.down_proj"]), named("self_attn.q_proj", ["proj"])
    (True, False)
    """
    return any(path == target or path.endswith(f".{target}") for target in targets)


@dataclass(frozen=True)
class Projection:
    """One linear map of a block, which every token goes through once and which can carry LoRA.

    Args:
        name: its path inside the block, such as "self_attn.q_proj".
        in_features: width of what it reads.
        out_features: width of what it yields.
        bias: whether it has a bias of `out_features` values.
    """

    name: str
    in_features: int
    out_features: int
    bias: bool = False

    @property
    def num_values(self) -> int:
        """Weights and biases (values)."""
        return self.in_features * self.out_features + self.out_features * self.bias

    def is_named(self, target: str) -> bool:
        """Whether a target of PEFT means it, for adapters of others."""
        return named(self.name, [target])


@dataclass(frozen=True)
class Product:
    """A matrix product of two tensors; a frozen weight is a tensor that nothing makes need a gradient.

    Args:
        flop_per_token: what it costs for every token (FLOP).
        flop_per_pair: what it costs for every pair of tokens, as attention does (FLOP).
        left: the names that make its left factor need a gradient.
        right: likewise its right factor.
        projection: the linear map whose product with its input it is; "" for the others.
    """

    flop_per_token: int
    flop_per_pair: int
    left: Names
    right: Names = frozenset()
    projection: str = ""


@dataclass(frozen=True)
class Saved:
    """A tensor that the backward pass may need.

    Args:
        values: its size for a token (values).
        because: the names that make one of the block's own operations keep it.
        read_by: the linear maps that read it, whose adapters keep it.
    """

    values: int
    because: Names
    read_by: Names = frozenset()


@dataclass(frozen=True)
class Block:
    """One block of a model.

    Args:
        values: its parameters (values).
        projections: its linear maps.
        products: all its matrix products, those of `projections` included.
        saved: all tensors that its backward pass may need.
        attention_end: the linear map that ends attention, behind which a bottleneck can stand; "" if there is none.
        feed_forward_end: the one that ends the feed-forward half.
        key_width: values of a token's keys that attention reads, all heads together; 0: none can be put before them.
        value_width: likewise its values.
    """

    values: int
    projections: tuple[Projection, ...]
    products: tuple[Product, ...]
    saved: tuple[Saved, ...]
    attention_end: str
    feed_forward_end: str
    key_width: int = 0
    value_width: int = 0

    def lora_projections(self, lora_targets: Iterable[str]) -> tuple[Projection, ...]:
        """The linear maps that PEFT adapts for a list of target modules, in the order of `projections`."""
        targets = tuple(lora_targets)
        if ALL_LINEAR in targets:
            return self.projections
        return tuple(p for p in self.projections if named(p.name, targets))
