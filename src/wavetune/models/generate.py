"""Text from a stock model with or without saved adapters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from wavetune.errors import ConfigError
from wavetune.models.backbone import load_stock_model
from wavetune.models.restore import load_adapted


def load_for_generation(folder: Path, adapter: Path | None, device: str = "cpu") -> Any:
    """Stock model, with the adapters of a folder on it if one is given. Raises ModelError if one cannot be loaded."""
    model = load_stock_model(folder) if adapter is None else load_adapted(folder, adapter)
    return torch.nn.Module.to(model, device)


@torch.no_grad()
def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[str]:
    """What follows each prompt (token ids): greedily at temperature 0, else sampled.

    Raises ConfigError if prompt and answer together are longer than the model takes.
    """
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    longest, room = max(map(len, prompts)), getattr(model.config, "max_position_embeddings", None)
    if room is not None and longest + max_new_tokens > room:
        raise ConfigError(
            f"a prompt of {longest} tokens and {max_new_tokens} new ones are more than the {room} that the model "
            "takes; shorten one of them"
        )
    ids = torch.tensor([[pad] * (longest - len(p)) + list(p) for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    sampling: dict[str, Any] = {"do_sample": temperature > 0}
    sampling |= (
        {"temperature": temperature, "top_k": None, "top_p": None}
        if temperature > 0
        else {
            "temperature": None,
            "top_k": None,
            "top_p": None,
        }
    )
    torch.manual_seed(seed)
    out = model.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        max_new_tokens=max_new_tokens,
        pad_token_id=pad,
        eos_token_id=tokenizer.eos_token_id,
        **sampling,
    )
    return [tokenizer.decode(row[longest:], skip_special_tokens=True).strip() for row in out]
