"""How many clients go through the base at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def default_tokens_per_pass(device: torch.device) -> int:
    """Tokens of a pass that keep the matrix products efficient without holding more activations than needed.

    On a CPU products of 1,000 rows already run at full speed, so small passes cost nothing and hold the memory of many
    clients near that of one. An accelerator wants larger ones.
    """
    return 1024 if device.type == "cpu" else 32768
