"""Which tensors of one block need a gradient when the base is frozen and only adapters train."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from wavetune.costs.architecture import Projection
from wavetune.costs.bottleneck import Place


@dataclass(frozen=True)
class GradientFlow:
    """Whether backpropagation reaches each tensor of a block; it does where a trained value lies upstream.

    Args:
        attention_in: input of the query, key and value projections; thus also the block's input.
        query: what the scores are formed from, on the query side.
        key: likewise on the key side.
        value: what attention averages.
        attention_out: input of the output projection.
        attention: what that projection yields.
        mlp_in: input of the MLP's first projections; thus also the residual stream after attention.
        mlp_hidden: input of the MLP's last projection.
        feed_forward: what that projection yields.
        block_out: what the block adds to the residual stream last, a bottleneck included.
    """

    attention_in: bool
    query: bool
    key: bool
    value: bool
    attention_out: bool
    attention: bool
    mlp_in: bool
    mlp_hidden: bool
    feed_forward: bool
    block_out: bool

    @property
    def scores(self) -> bool:
        """Whether the attention scores need a gradient."""
        return self.query or self.key

    def reaches_input_of(self, projection: Projection) -> bool:
        """Whether the activation that a projection reads needs a gradient."""
        return bool(getattr(self, projection.reads))

    def reaches_output_of(self, place: Place) -> bool:
        """Whether what the last projection there yields, and a bottleneck reads, needs a gradient."""
        return self.attention if place == "attention" else self.feed_forward


def gradient_flow(
    trained: Collection[Projection], input_needs_grad: bool, bottlenecks: Collection[Place] = ()
) -> GradientFlow:
    """Gradient flow in a block whose base is frozen.

    Args:
        trained: the projections that carry a trained adapter.
        input_needs_grad: whether the block's input needs a gradient: a lower block, or something before the first
            block, trains; or a client below the cut waits for it.
        bottlenecks: the places behind which a trained bottleneck stands.

    Returns:
        The flow.

    >>> from wavetune.costs.architecture import PRESETS
    >>> flow = gradient_flow(PRESETS["tiny"].lora_projections(["q_proj", "v_proj"]), input_needs_grad=False)
    >>> flow.attention_in, flow.query, flow.key, flow.value
    (False, True, False, True)
    """
    fed = "".join(projection.feeds for projection in trained)
    query, key, value = (input_needs_grad or letter in fed for letter in "qkv")
    attention_out = query or key or value
    read = {p.reads for p in trained}
    attention = attention_out or "attention_out" in read
    mlp_in = attention or "attention" in bottlenecks
    mlp_hidden = mlp_in or "mlp_in" in read
    feed_forward = mlp_hidden or "mlp_hidden" in read
    block_out = feed_forward or "feed_forward" in bottlenecks
    return GradientFlow(
        input_needs_grad, query, key, value, attention_out, attention, mlp_in, mlp_hidden, feed_forward, block_out
    )
