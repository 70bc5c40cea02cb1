"""Speed of stacked generation against stock `generate`, in one run: ratios of medians on the same prompts.

    python benchmarks/generation.py [--model smollm2-135m] [--clients 6 --samples 4] [--device cuda]

Every client has a LoRA adapter of its own. All contenders write the same number of tokens (no stop token), greedily, so
that they do the same work; they take turns, so that a machine whose speed drifts treats all alike.
- stacked: wavetune, all clients' samples in one batch
- sequential generate: stock transformers with PEFT, a loop over clients and samples
- generate by client: stock transformers with PEFT, one padded batch a client
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wavetune.data.concierge import situations
from wavetune.data.templates import PlainTemplate, prompt_ids
from wavetune.models.backbone import load_backbone, load_stock_model, load_tokenizer
from wavetune.models.decode import decode
from wavetune.models.lora import new_bank
from wavetune.models.resolve import resolve_model

warnings.simplefilter("ignore")
TARGETS, RANK = ("q_proj", "v_proj"), 8


def stock_with_adapters(folder: Path, clients: int, device: str, bf16: bool) -> Any:
    """A stock PEFT model with one adapter a client."""
    from peft import LoraConfig, get_peft_model

    model = load_stock_model(folder)
    torch.nn.Module.to(model, device, torch.bfloat16 if bf16 else torch.float32)
    config = LoraConfig(r=RANK, lora_alpha=16, target_modules=list(TARGETS))
    adapted = get_peft_model(model, config, adapter_name="0")
    for client in range(1, clients):
        adapted.add_adapter(str(client), config)
    return adapted.eval()


def stock_answers(model: Any, prompts: list[list[int]], new_tokens: int) -> None:
    """One padded batch through stock generate."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    lengths = {"min_new_tokens": new_tokens, "max_new_tokens": new_tokens}
    with torch.no_grad():
        model.generate(input_ids=ids, attention_mask=mask, do_sample=False, pad_token_id=0, **lengths)


def contenders(options: argparse.Namespace) -> dict[str, Callable[[], None]]:
    """Name of each, and how it answers all prompts once."""
    folder = resolve_model(options.model).folder
    tokenizer = load_tokenizer(folder)
    examples = [s.example for s in situations(options.clients * options.samples, seed=0)]
    prompts = prompt_ids(examples, tokenizer, PlainTemplate())
    owners = [i // options.samples for i in range(len(prompts))]
    backbone = load_backbone(folder, TARGETS, options.bf16, options.device)
    own = np.ones((backbone.num_layers, options.clients), np.bool_)
    bank = new_bank(backbone.sites, own, [RANK] * options.clients, RANK, 16.0, seed=0, device=options.device)
    stock, by_client = stock_with_adapters(folder, options.clients, options.device, options.bf16), options.samples

    def generate(size: int) -> None:
        for start in range(0, len(prompts), size):
            stock.set_adapter(str(owners[start]))
            stock_answers(stock, prompts[start : start + size], options.new_tokens)

    return {
        "stacked": lambda: _ignore(decode(backbone, prompts, options.new_tokens, (), bank, owners)),
        "sequential generate": lambda: generate(1),
        "generate by client": lambda: generate(by_client),
    }


def _ignore(_: object) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--samples", type=int, default=4, help="prompts of each client")
    parser.add_argument("--new-tokens", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true")
    options = parser.parse_args(arguments)
    seconds: dict[str, list[float]] = {}
    runs = contenders(options)
    for repeat in range(options.repeats + 1):  # the first warms up
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if options.device != "cpu":
                torch.cuda.synchronize()
            if repeat:
                seconds.setdefault(name, []).append(time.perf_counter() - started)
    tokens = options.clients * options.samples * options.new_tokens
    median = {name: statistics.median(times) for name, times in seconds.items()}
    for name, value in median.items():
        times = value / median["stacked"]
        print(f"{name:22s} {tokens / value:8.1f} new tokens/s   stacked takes 1/{times:.2f} of the time")
    per_s = {name: round(tokens / value, 1) for name, value in median.items()}
    print(json.dumps({"tokens_per_s": per_s, "threads": torch.get_num_threads(), "bf16": options.bf16}))


if __name__ == "__main__":
    main()
