"""How many clients go through the base at once, and memory that goes back to the system."""

from __future__ import annotations

import ctypes
import sys
from typing import TYPE_CHECKING, Any

from wavetune.machine_memory import memory_bytes

if TYPE_CHECKING:
    from wavetune.models.backbone import Backbone

_LEAST_TOKENS, LEAST_PIECE = 64, 512


def default_tokens_per_pass(backbone: Backbone) -> int:
    """Tokens of a pass that keep the matrix products efficient, as far as they fit.

    On a CPU products of 1,000 rows already run at full speed, so that small passes cost nothing and hold the memory of
    many clients near that of one; where they are quick themselves, in bf16, what starts them counts and passes are of
    twice as many. An accelerator wants larger ones.
    """
    import torch

    from wavetune.models.products import has_bf16_products

    if backbone.device.type != "cpu":
        return min(32768, tokens_that_fit(backbone))
    narrow = any(p.dtype == torch.bfloat16 for p in backbone.blocks.parameters()) and has_bf16_products()
    return min(2048 if narrow else 1024, tokens_that_fit(backbone))


def tokens_that_fit(backbone: Backbone) -> int:
    """Tokens whose activations fit an eighth of a machine's memory, or half of an accelerator's, beside the weights.

    What is free at the moment does not count, so that a run that is continued makes the same passes.
    """
    import torch

    weights = sum(p.numel() * p.element_size() for p in backbone.model.parameters())
    if backbone.device.type == "cpu":
        room_bytes = (memory_bytes() - weights) // 8
    else:
        cuda: Any = torch.cuda
        room_bytes = (int(cuda.get_device_properties(backbone.device).total_memory) - weights) // 2
    return max(_LEAST_TOKENS, room_bytes // activation_bytes_per_token(backbone))


def tokens_of_a_piece(backbone: Backbone, tokens_per_pass: int | None) -> int:
    """Tokens from which on one client's rows are divided: what fits, or what a pass was limited to, as far as it helps.

    Smaller pieces than of 512 tokens would hardly take less memory, and more time.
    """
    return tokens_that_fit(backbone) if tokens_per_pass is None else max(tokens_per_pass, LEAST_PIECE)


def activation_bytes_per_token(backbone: Backbone) -> int:
    """What a token keeps for the backward pass: a rule of thumb for Llama-shaped blocks.

    In each block 8 vectors as wide as the residual stream and 5 as wide as the widest map; of blocks that are computed
    again, one such vector each, and all of one block.
    """
    widest = max((p.shape[0] for p in backbone.blocks[-1].parameters() if p.dim() == 2), default=backbone.width)
    block, layers = 8 * backbone.width + 5 * widest, backbone.num_layers
    kept = block + layers * backbone.width if backbone.recompute else layers * block
    return kept * backbone.dtype.itemsize


def give_back_free_heap() -> None:
    """Let glibc give back memory that was freed, which it keeps in pieces otherwise; elsewhere nothing."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)
