"""The blocks of GPT-2, the Llama-like and the BERT-like families, written down from their sizes."""

from collections.abc import Sequence
from dataclasses import dataclass

from wavetune.costs.operations import INPUT, PREFIX, Block, Names, Product, Projection, Saved


@dataclass(frozen=True)
class BlockSizes:
    """Widths of a block, and what tells the families apart.

    Args:
        hidden_size: width of the residual stream, D.
        num_heads: query heads.
        num_kv_heads: key and value heads, which divide the query heads.
        head_dim: width of one head.
        intermediate_size: width inside the MLP.
        layer_norm: whether norms are LayerNorm (scale and shift).
        qk_norm: whether queries and keys are normalised per head.
        pre_norm: whether attention and MLP read the normalised residual stream.
        post_norm: whether what attention and MLP yield, or what is then on the residual stream (BERT), is normalised.
    """

    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    layer_norm: bool = False
    qk_norm: bool = False
    pre_norm: bool = True
    post_norm: bool = False

    @property
    def query_width(self) -> int:
        """Values of all query heads of one token."""
        return self.num_heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Values of all key heads (as many as of all value heads) of one token."""
        return self.num_kv_heads * self.head_dim

    @property
    def norm_values(self) -> int:
        """Parameters of a block's norms (values)."""
        norms = 2 * (self.pre_norm + self.post_norm)
        return norms * self.hidden_size * (1 + self.layer_norm) + 2 * self.head_dim * self.qk_norm


def serial_block(
    sizes: BlockSizes,
    query: Projection,
    key: Projection,
    value: Projection,
    attention_end: Projection,
    mlp_start: Sequence[tuple[Projection, int]],
    mlp_end: Projection,
) -> Block:
    """A block that runs attention, then its MLP, each added to the residual stream.

    Args:
        sizes: its widths.
        query: the map that yields queries; one fused map stands for all three.
        key: the map that yields keys.
        value: the map that yields values.
        attention_end: the map behind attention.
        mlp_start: the maps that read the MLP's input, each with the number of tensors as wide as the MLP that are kept
            because what it yields needs a gradient.
        mlp_end: the map that ends the MLP.

    Returns:
        The block, with fused attention and no dropout: a norm keeps its input and one scalar a row (LayerNorm two),
        attention q, k, v, its output and one normaliser a head, the MLP what its activation and gate need.
    """
    at_input = frozenset({INPUT})
    at_query, at_key, at_value = (at_input | {p.name} for p in (query, key, value))
    keys, values = at_key | {PREFIX}, at_value | {PREFIX}
    attended = at_query | keys | values
    at_mlp = attended | {attention_end.name}
    starts = tuple(p for p, _ in mlp_start)
    in_mlp = at_mlp | {p.name for p in starts}
    at_end = in_mlp | {mlp_end.name}
    readers = tuple({p.name: p for p in (query, key, value)}.values())
    pair_flop = 2 * sizes.query_width
    return Block(
        values=sizes.norm_values + sum(p.num_values for p in (*readers, attention_end, *starts, mlp_end)),
        projections=(*readers, attention_end, *starts, mlp_end),
        products=(
            *(_product(p, at_input) for p in readers),
            Product(0, pair_flop, at_query, keys),
            Product(0, pair_flop, at_query | keys, values),
            _product(attention_end, attended),
            *(_product(p, at_mlp) for p in starts),
            _product(mlp_end, in_mlp),
        ),
        saved=(
            *_saved_by_norms(sizes, at_input, at_query, at_key, at_mlp, at_end),
            Saved(sizes.hidden_size, frozenset(), frozenset(p.name for p in readers)),
            Saved(sizes.query_width + 2 * sizes.kv_width + sizes.num_heads, attended),
            Saved(sizes.query_width, attended, frozenset({attention_end.name})),
            Saved(sizes.hidden_size, frozenset(), frozenset(p.name for p in starts)),
            *(Saved(kept * sizes.intermediate_size, at_mlp | {p.name}) for p, kept in mlp_start),
            Saved(sizes.intermediate_size, frozenset(), frozenset({mlp_end.name})),
        ),
        attention_end=attention_end.name,
        feed_forward_end=mlp_end.name,
        key_width=sizes.kv_width,
        value_width=sizes.kv_width,
    )


def _product(projection: Projection, left: Names) -> Product:
    return Product(2 * projection.in_features * projection.out_features, 0, left, projection=projection.name)


def _saved_by_norms(
    sizes: BlockSizes, at_input: Names, at_query: Names, at_key: Names, at_mlp: Names, at_end: Names
) -> list[Saved]:
    norm = sizes.hidden_size + 1 + sizes.layer_norm
    saved = [Saved(norm, at_input), Saved(norm, at_mlp)] if sizes.pre_norm else []
    if sizes.qk_norm:
        saved += [
            Saved(sizes.query_width + sizes.num_heads, at_query),
            Saved(sizes.kv_width + sizes.num_kv_heads, at_key),
        ]
    return [*saved, Saved(norm, at_mlp), Saved(norm, at_end)] if sizes.post_norm else saved
