"""Text from a stock model with or without saved adapters."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from wavetune.errors import ConfigError
from wavetune.models.adapter import ModelAdapter
from wavetune.models.backbone import load_stock_model
from wavetune.models.restore import load_adapted, prompt_tokens
from wavetune.models.stopping import Ends, length_of_end, own_ends, up_to_end


def load_for_generation(
    folder: Path, adapter: Path | None, device: str = "cpu", adapters: Sequence[ModelAdapter] = ()
) -> Any:
    """Stock model, with the adapters of a folder on it if one is given. Raises ModelError if one cannot be loaded."""
    model = load_stock_model(folder) if adapter is None else load_adapted(folder, adapter, adapters)
    return torch.nn.Module.to(model, device)


@torch.no_grad()
def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
    ends: Ends = (),
    beams: int = 1,
) -> list[str]:
    """What follows each prompt (token ids) up to an end, as it is: greedily at temperature 0, else sampled.

    With several beams it is the likeliest of so many answers that are followed at once.
    The tokenizer's end-of-sequence token and what the model's own configuration names end an answer in any case.
    Raises ConfigError if a prompt is empty, or together with its answer longer than the model takes.
    """
    if not all(prompts):
        raise ConfigError("a prompt is empty and the tokenizer begins no text of its own accord; give at least a word")
    if prompt_tokens(model) and len(set(map(len, prompts))) > 1:  # PEFT would leave padding between prompt and text
        return [
            generate(model, tokenizer, [own], max_new_tokens, temperature, seed + i, ends, beams)[0]
            for i, own in enumerate(prompts)
        ]
    ends = {*ends, *own_ends(model), *((t,) for t in [tokenizer.eos_token_id] if t is not None)}
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    longest, room = max(map(len, prompts)), getattr(model.config, "max_position_embeddings", None)
    if room is not None and prompt_tokens(model) + longest + max_new_tokens > room:
        raise ConfigError(
            f"a prompt of {longest} tokens and {max_new_tokens} new ones are more than the {room} that the model "
            "takes; shorten one of them"
        )
    ids = torch.tensor([[pad] * (longest - len(p)) + list(p) for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    sampling: dict[str, Any] = {"do_sample": temperature > 0, "temperature": temperature or None, "num_beams": beams}
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Position ids are not supported")  # PEFT counts them itself behind a prompt
        out = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=max_new_tokens,
            pad_token_id=pad,
            eos_token_id=sorted(end[0] for end in ends if len(end) == 1) or None,
            stopping_criteria=StoppingCriteriaList([_AllEnded(longest, ends)]),
            top_k=None,
            top_p=None,
            **sampling,
        )
    answers = [up_to_end(row[longest:].tolist(), ends) for row in out]
    return [tokenizer.decode(answer, skip_special_tokens=True) for answer in answers]


class _AllEnded(StoppingCriteria):
    """Ends, of one token or of several, of the answers behind the prompts of a batch."""

    def __init__(self, start: int, ends: Ends) -> None:
        self.start, self.ends = start, ends

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        ended = [length_of_end(row[self.start :].tolist(), self.ends) > 0 for row in input_ids]
        return torch.tensor(ended, device=input_ids.device)
