"""Which tensors of one decoder block need a gradient when the base is frozen and only adapters train."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from wavetune.costs.architecture import Projection


@dataclass(frozen=True)
class GradientFlow:
    """Whether backpropagation reaches each tensor of a block; it does where a trained value lies upstream.

    Args:
        attention_in: input of the query, key and value projections; thus also the block's input.
        query: what the scores are formed from, on the query side.
        key: likewise on the key side.
        value: what attention averages.
        attention_out: input of the output projection.
        mlp_in: input of the MLP's first projections; thus also the residual stream after attention.
        mlp_hidden: input of the MLP's last projection.
    """

    attention_in: bool
    query: bool
    key: bool
    value: bool
    attention_out: bool
    mlp_in: bool
    mlp_hidden: bool

    @property
    def scores(self) -> bool:
        """Whether the attention scores need a gradient."""
        return self.query or self.key

    def reaches_input_of(self, projection: Projection) -> bool:
        """Whether the activation that a projection reads needs a gradient."""
        return bool(getattr(self, projection.reads))


def gradient_flow(trained: Collection[Projection], input_needs_grad: bool) -> GradientFlow:
    """Gradient flow in a block whose base is frozen.

    Args:
        trained: the projections that carry a trained adapter.
        input_needs_grad: whether the block's input needs a gradient: a lower block, or something before the first
            block, trains; or a client below the cut waits for it.

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
    mlp_in = attention_out or any(p.reads == "attention_out" for p in trained)
    mlp_hidden = mlp_in or any(p.reads == "mlp_in" for p in trained)
    return GradientFlow(input_needs_grad, query, key, value, attention_out, mlp_in, mlp_hidden)
