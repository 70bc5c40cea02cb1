"""Costs of one block with a frozen base, LoRA and bottlenecks: matrix products, adapter sizes, saved activations.

A multiply-add is 2 FLOP. Counted are the matrix products that automatic differentiation executes, nothing else; norms,
softmax, rotary positions, activation functions and residual sums add 0.7 % to the operations of GPT-2 small and
SmolLM2-135M at 512 tokens, 1 % at 1024. Attention is counted over the full square of a sample's length, also under a
causal mask or a sliding window: a kernel that skips what they hide beats this count.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from wavetune.costs.architecture import Architecture, Projection
from wavetune.costs.bottleneck import Bottleneck
from wavetune.costs.gradient_flow import GradientFlow, gradient_flow


@dataclass(frozen=True)
class BlockCosts:
    """What one block costs, per token, per token pair (one query with one key) and per unit of LoRA rank.

    Args:
        forward_flop_per_token: frozen projections, forward (FLOP).
        forward_flop_per_pair: attention products, forward (FLOP).
        backward_flop_per_token: frozen projections, backward (FLOP).
        backward_flop_per_pair: attention products, backward (FLOP).
        lora_forward_flop_per_token: adapters, forward, per unit of rank (FLOP).
        lora_backward_flop_per_token: adapters, backward, per unit of rank (FLOP).
        lora_values_per_rank: adapter parameters per unit of rank (values).
        bottleneck_forward_flop_per_token: bottlenecks, forward (FLOP).
        bottleneck_backward_flop_per_token: bottlenecks, backward (FLOP).
        bottleneck_values: bottleneck parameters (values).
        saved_values_per_token: activations kept for the backward pass, bottlenecks included (values).
        saved_lora_values_per_token: those kept by LoRA, per unit of rank (values).
    """

    forward_flop_per_token: int
    forward_flop_per_pair: int
    backward_flop_per_token: int
    backward_flop_per_pair: int
    lora_forward_flop_per_token: int
    lora_backward_flop_per_token: int
    lora_values_per_rank: int
    bottleneck_forward_flop_per_token: int
    bottleneck_backward_flop_per_token: int
    bottleneck_values: int
    saved_values_per_token: int
    saved_lora_values_per_token: int


def block_costs(
    architecture: Architecture,
    trained: Collection[Projection],
    input_needs_grad: bool,
    bottleneck: Bottleneck | None = None,
    frozen_bottleneck: bool = False,
) -> BlockCosts:
    """Costs of one block.

    Forward, a projection costs 2 in out FLOP a token, attention 2 (scores) + 2 (average) times the query width a token
    pair, an adapter 2 (in + out) a token and unit of rank. Backward, a frozen projection gives only its input's
    gradient (2 in out), attention four products as large as its two forward ones (the averages' and the values', the
    queries' and the keys'), an adapter its two factors' and the gradient between them, 2 in + 4 out, and 2 in for its
    input's. A bottleneck of width m behind a map to width d costs 4 d m a token forward; backward 2 d m each for its
    hidden values' and its input's gradient, and 4 d m for its own unless it is frozen. Products whose result nobody
    needs are not executed and not counted.

    Args:
        architecture: the model.
        trained: the projections of a block that carry LoRA.
        input_needs_grad: whether the block's input needs a gradient; not so in the first block, as the embedding is
            frozen.
        bottleneck: the block's bottlenecks.
        frozen_bottleneck: whether they act but do not train.

    Returns:
        The block's costs.

    Ignores: everything but matrix products (about 0.7 %, see above); the score product that a fused attention kernel
        recomputes, which makes attention's backward 2.5 instead of 2 times its forward; the optimiser (some 12
        operations a parameter and step).

    GPT-2 small at 512 tokens: 24 d^2 s + 4 s^2 d = 8.05 GFLOP a sample and block.

    >>> from wavetune.costs.architecture import PRESETS
    >>> gpt2 = PRESETS["gpt2"]
    >>> block = block_costs(gpt2, gpt2.lora_projections(["c_attn"]), input_needs_grad=True)
    >>> 512 * block.forward_flop_per_token + 512**2 * block.forward_flop_per_pair
    8053063680
    >>> 24 * 768**2 * 512 + 4 * 512**2 * 768
    8053063680

    Its fused adapter, 768 to 3 x 768, has 3072 values per unit of rank.

    >>> block.lora_values_per_rank, block.lora_forward_flop_per_token
    (3072, 6144)
    """
    places = () if bottleneck is None else bottleneck.places
    flow = gradient_flow(trained, input_needs_grad, () if frozen_bottleneck else places)
    pair_flop = 2 * architecture.query_width
    narrow_flop = 0 if bottleneck is None else 2 * architecture.hidden_size * bottleneck.width
    return BlockCosts(
        forward_flop_per_token=sum(_product_flop(p) for p in architecture.projections),
        forward_flop_per_pair=2 * pair_flop,
        backward_flop_per_token=sum(_product_flop(p) for p in architecture.projections if flow.reaches_input_of(p)),
        backward_flop_per_pair=pair_flop * (flow.query + flow.key + flow.scores + flow.value),
        lora_forward_flop_per_token=sum(2 * (p.in_features + p.out_features) for p in trained),
        lora_backward_flop_per_token=sum(
            2 * p.in_features * (1 + flow.reaches_input_of(p)) + 4 * p.out_features for p in trained
        ),
        lora_values_per_rank=sum(p.in_features + p.out_features for p in trained),
        bottleneck_forward_flop_per_token=2 * narrow_flop * len(places),
        bottleneck_backward_flop_per_token=narrow_flop
        * sum(2 * flow.reaches_output_of(p) if frozen_bottleneck else 3 + flow.reaches_output_of(p) for p in places),
        bottleneck_values=0 if bottleneck is None else bottleneck.values(architecture.hidden_size),
        saved_values_per_token=_saved_values_per_token(architecture, trained, flow)
        + _saved_by_bottlenecks(architecture, bottleneck, frozen_bottleneck, flow),
        saved_lora_values_per_token=len(trained),
    )


def _product_flop(projection: Projection) -> int:
    """FLOP of one token through a projection; its input's gradient takes as many."""
    return 2 * projection.in_features * projection.out_features


def _saved_values_per_token(architecture: Architecture, trained: Collection[Projection], flow: GradientFlow) -> int:
    """Activations a block keeps per token with fused attention and no dropout: what frozen operations need backward.

    A norm keeps its input and one scalar a row (LayerNorm two), attention q, k, v, its output and one normaliser a
    head, a gated MLP gate, activated gate and up, GPT-2's GELU four tensors, BERT's one; an adapter the input it reads.
    Frozen projections keep nothing. Counts too much in a first block where of gate and up only one is adapted and
    nothing before them.
    """
    a = architecture
    statistics = 2 if a.has_layer_norm else 1
    norm = a.hidden_size + statistics
    saved = norm * flow.mlp_in + norm * (flow.block_out if a.is_encoder else flow.attention_in)
    if a.qk_norm:
        saved += flow.query * (a.query_width + a.num_heads) + flow.key * (a.kv_width + a.num_kv_heads)
    if flow.attention_out:
        saved += 2 * (a.query_width + a.kv_width) + a.num_heads
    if flow.mlp_hidden:
        saved += (1 if a.is_encoder else 4 if a.has_layer_norm else 3) * a.intermediate_size
    if a.post_norm:
        saved += norm * flow.mlp_in + norm * flow.block_out
    sites = {p.reads: p.in_features for p in trained}
    if flow.attention_out:
        sites.pop("attention_out", None)  # attention keeps its output already
    return saved + sum(sites.values())


def _saved_by_bottlenecks(
    architecture: Architecture, bottleneck: Bottleneck | None, frozen: bool, flow: GradientFlow
) -> int:
    """A bottleneck keeps its hidden values before the activation, and its input if it trains."""
    if bottleneck is None:
        return 0
    if frozen:
        return bottleneck.width * sum(flow.reaches_output_of(place) for place in bottleneck.places)
    return (architecture.hidden_size + bottleneck.width) * len(bottleneck.places)
