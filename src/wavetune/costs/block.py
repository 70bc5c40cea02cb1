"""Costs of one block with a frozen base, LoRA and other adapters: matrix products, adapter sizes, saved activations.

A multiply-add is 2 FLOP. Counted are the matrix products that automatic differentiation executes, nothing else; norms,
softmax, rotary positions, activation functions and residual sums add 0.7 % to the operations of GPT-2 small and
SmolLM2-135M at 512 tokens, 1 % at 1024. Attention is counted over the full square of a sample's length, also under a
causal mask or a sliding window: a kernel that skips what they hide beats this count. Of a mixture of experts those
count that a token is sent to.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from wavetune.costs.adapter import FixedAdapter, values_of
from wavetune.costs.operations import INPUT, PREFIX, Block, Names, Projection


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
        fixed_forward_flop_per_token: adapters of a size that no rank changes, forward (FLOP).
        fixed_backward_flop_per_token: the same, backward (FLOP).
        fixed_values: their parameters (values).
        saved_values_per_token: activations kept for the backward pass, theirs included (values).
        saved_lora_values_per_token: those kept by LoRA, per unit of rank (values).
    """

    forward_flop_per_token: int
    forward_flop_per_pair: int
    backward_flop_per_token: int
    backward_flop_per_pair: int
    lora_forward_flop_per_token: int
    lora_backward_flop_per_token: int
    lora_values_per_rank: int
    fixed_forward_flop_per_token: int
    fixed_backward_flop_per_token: int
    fixed_values: int
    saved_values_per_token: int
    saved_lora_values_per_token: int


@dataclass(frozen=True)
class GradientFlow:
    """Which tensors of a block need a gradient.

    Args:
        adapted: names of the linear maps that carry LoRA.
        trained: names of what yields something trained: those, the maps that other trained adapters follow, `PREFIX`
            where keys and values train, and `INPUT` where the block's input needs a gradient.
    """

    adapted: Names
    trained: Names

    def needed(self, because: Names) -> bool:
        """Whether a tensor needs a gradient that has these names upstream."""
        return bool(because & self.trained)


def block_costs(
    block: Block,
    trained: Collection[Projection],
    input_needs_grad: bool,
    hidden_size: int,
    adapters: Sequence[FixedAdapter] = (),
    frozen_adapters: bool = False,
    trains: bool = True,
) -> BlockCosts:
    """Costs of one block.

    Forward, a projection costs 2 in out FLOP a token, attention 2 (scores) + 2 (average) times the query width a token
    pair, an adapter 2 (in + out) a token and unit of rank. Backward, a frozen projection gives only its input's
    gradient (2 in out), attention four products as large as its two forward ones (the averages' and the values', the
    queries' and the keys'), an adapter its two factors' and the gradient between them, 2 in + 4 out, and 2 in for its
    input's; where it does not train, 2 (in + out) for its input's alone. A key and value before those of a text cost
    each token what a pair of tokens does. What other adapters cost they say themselves (`Behind`). Products whose
    result nobody needs are not executed and not counted.

    Args:
        block: the block.
        trained: the projections of the block that carry LoRA.
        input_needs_grad: whether the block's input needs a gradient; not so in the first block, as the embedding is
            frozen.
        hidden_size: width of the residual stream, d.
        adapters: kinds that stand in the block beside LoRA.
        frozen_adapters: whether they act but do not train.
        trains: whether anything of the block does; if not, its adapters act and pass gradients on.

    Returns:
        The block's costs.

    Ignores: everything but matrix products (about 0.7 %, see above); the score product that a fused attention kernel
        recomputes, which makes attention's backward 2.5 instead of 2 times its forward; the optimiser (some 12
        operations a parameter and step); the copies of trained keys and values that a sample keeps.

    GPT-2 small at 512 tokens: 24 d^2 s + 4 s^2 d = 8.05 GFLOP a sample and block.

    >>> from wavetune.costs.architecture import PRESETS
    >>> gpt2 = PRESETS["gpt2"].blocks[0]
    >>> block = block_costs(gpt2, gpt2.lora_projections(["c_attn"]), input_needs_grad=True, hidden_size=768)
    >>> 512 * block.forward_flop_per_token + 512**2 * block.forward_flop_per_pair
    8053063680
    >>> 24 * 768**2 * 512 + 4 * 512**2 * 768
    8053063680

    Its fused adapter, 768 to 3 x 768, has 3072 values per unit of rank.

    >>> block.lora_values_per_rank, block.lora_forward_flop_per_token
    (3072, 6144)
    """
    fixed = [one for adapter in adapters for one in adapter.behind(block, hidden_size)]
    attended = [one for adapter in adapters for one in adapter.attended(block)]
    keys = sum(adapter.key_tokens for adapter in adapters if adapter.attended(block))
    fixed_trains = trains and not frozen_adapters
    adapted = frozenset(p.name for p in trained if trains)
    ends = frozenset(one.map for one in fixed if fixed_trains)
    causes = (PREFIX,) * bool(attended and fixed_trains) + (INPUT,) * input_needs_grad
    flow = GradientFlow(adapted, adapted | ends | set(causes))
    reached = [one.map in adapted or _reaches_input(block, one.map, flow) for one in fixed]
    backward = [(p, flow.needed(p.left) + flow.needed(p.right)) for p in block.products]
    return BlockCosts(
        forward_flop_per_token=sum(p.flop_per_token for p in block.products),
        forward_flop_per_pair=sum(p.flop_per_pair for p in block.products),
        backward_flop_per_token=sum(p.flop_per_token * times for p, times in backward),
        backward_flop_per_pair=sum(p.flop_per_pair * times for p, times in backward),
        lora_forward_flop_per_token=sum(2 * (p.in_features + p.out_features) for p in trained),
        lora_backward_flop_per_token=sum(
            2 * p.in_features * (trains + reaches) + 2 * p.out_features * (trains + (trains or reaches))
            for p, reaches in ((p, _reaches_input(block, p.name, flow)) for p in trained)
        ),
        lora_values_per_rank=sum(p.in_features + p.out_features for p in trained),
        fixed_forward_flop_per_token=sum(one.forward_flop for one in fixed)
        + keys * sum(p.flop_per_pair for p in block.products),
        fixed_backward_flop_per_token=sum(
            one.backward_flop(fixed_trains, below) for one, below in zip(fixed, reached, strict=True)
        )
        + keys * sum(p.flop_per_pair * times for p, times in backward),
        fixed_values=sum(values_of(one.matrices) for one in fixed) + values_of(attended),
        saved_values_per_token=sum(s.values for s in block.saved if flow.needed(s.because) or s.read_by & adapted)
        + sum(one.saved_values(fixed_trains, below) for one, below in zip(fixed, reached, strict=True)),
        saved_lora_values_per_token=len(trained) * trains,
    )


def _reaches_input(block: Block, name: str, flow: GradientFlow) -> bool:
    """Whether what a projection reads needs a gradient."""
    return any(flow.needed(p.left) for p in block.products if p.projection == name)
