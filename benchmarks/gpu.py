"""What an accelerator makes of the engine: checks against the CPU, speed against stock PEFT, use of its peak.

    python benchmarks/gpu.py --out gpu.json [--device cuda] [--clients 64]

Every part that fails is reported as such while the others go on.
- checks: gradients of a split step and greedy answers on the device, beside those of the CPU in fp32
- speed: many clients stacked against sequential and centralised PEFT (`training_speed.py`)
- use: the share of the time that a step's matrix products would take at the speed of one large product, for the default
  model and for one with random weights and 1.1 billion parameters
`gpu.sh` makes an environment first and keeps to eight minutes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import training_speed as ts
from transformers import AutoConfig, AutoModelForCausalLM

from wavetune.data.batching import Batching
from wavetune.models.backbone import load_tokenizer
from wavetune.models.decode import decode
from wavetune.models.resolve import resolve_model

LARGE = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32}
LARGE |= {"num_key_value_heads": 4, "head_dim": 64}


def gradients(setting: ts.Setting, folder: Path) -> torch.Tensor:
    """The gradients of one split step, all in one vector on the CPU."""
    data, cohort = ts.data_of(setting, folder), ts.new_cohort(setting, folder, None)
    ts.spread(cohort)
    cohort.optimiser.step_clients = cohort.optimiser.step_server = lambda *_: None  # type: ignore[method-assign]
    cohort.step(data.train, ts.rows_of(data, 0, Batching(setting.batch_size, "none")), 1.0)
    parameters = [p for local in (True, False) for p in cohort.bank.parameters(local)]
    return torch.cat([p.grad.flatten().float().cpu() for p in parameters if p.grad is not None])


def answers(setting: ts.Setting, folder: Path) -> list[tuple[int, ...]]:
    """Greedy answers to two prompts by adapters away from their start."""
    cohort, tokenizer = ts.new_cohort(setting, folder, None), load_tokenizer(folder)
    ts.spread(cohort)
    prompts = [tokenizer("The weather in the mountains")["input_ids"], tokenizer("A cell is")["input_ids"]]
    return [answer.ids for answer in decode(cohort.backbone, prompts, 12, (), cohort.bank, [0, 1])]


def checks(setting: ts.Setting, folder: Path) -> dict[str, Any]:
    """Relative errors of gradients against the CPU in fp32, and whether greedy answers are the same."""
    few = replace(setting, clients=4, batch_size=2, bf16=False)
    exact, rough = gradients(replace(few, device="cpu"), folder), gradients(few, folder)
    coarse = gradients(replace(few, bf16=True), folder)
    size = float(exact.norm())
    return {
        "gradient_error_fp32": float((rough - exact).norm()) / size,
        "gradient_error_bf16": float((coarse - exact).norm()) / size,
        "greedy_answers_equal_fp32": answers(few, folder) == answers(replace(few, device="cpu"), folder),
    }


def large_model(like: Path, into: Path, sizes: dict[str, int]) -> Path:
    """A Llama with random weights and a tokenizer and vocabulary of another's, in bf16."""
    vocabulary = AutoConfig.from_pretrained(like).vocab_size
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", **sizes, vocab_size=vocabulary, tie_word_embeddings=False)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(into)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (like / name).exists():
            shutil.copy(like / name, into)
    return into


def use(setting: ts.Setting, folder: Path, repeats: int) -> dict[str, Any]:
    """Useful tokens per second of a stacked step and the share of its products in the time."""
    data, cohort = ts.data_of(setting, folder), ts.new_cohort(setting, folder, None)
    times: list[float] = []
    for repeat in range(repeats + 1):
        rows = ts.rows_of(data, repeat, Batching(setting.batch_size, "none"))
        times.append(ts.timed(lambda rows=rows: cohort.step(data.train, rows, 1.0), setting.device))
    useful, peak = sum(int(data.train.lengths[r].sum()) for r in rows), ts.product_speed(setting)
    work = ts.operations(setting, folder, data, rows)
    best = min(times[1:])
    return {"useful_tokens_per_s": useful / best, "operations_per_s": work / best, "product_peak_per_s": peak,
            "share_of_products": work / best / peak}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Run every part and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--data", default="restaurants")
    parser.add_argument("--device", default="cuda", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="bf16", choices=["fp32", "bf16"], help="of speed and use")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--large", type=json.loads, default=LARGE, help="sizes of the random model, as JSON")
    options = parser.parse_args(arguments)
    folder = resolve_model(options.model).folder
    on_gpu, bf16 = options.device == "cuda", options.precision == "bf16"
    setting = ts.Setting(options.model, options.data, options.clients, options.batch_size, options.device, bf16, False)
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if on_gpu else ts.machine(),
        "torch": torch.__version__,
        "clients": options.clients,
        "rows": options.batch_size,
    }
    with tempfile.TemporaryDirectory() as large:
        parts: dict[str, Callable[[], Any]] = {
            "checks": lambda: checks(setting, folder),
            "speed": lambda: ts.measure(setting, options.repeats),
            "use_default": lambda: use(setting, folder, options.repeats),
            "use_large": lambda: use(setting, large_model(folder, Path(large), options.large), options.repeats),
        }
        for name, part in parts.items():
            start = time.perf_counter()
            try:
                found[name] = part()
            except Exception as error:  # whatever a driver or a kernel says: the other parts count all the same
                traceback.print_exc()
                found[name] = {"failed": f"{type(error).__name__}: {error}"}
            found[name]["seconds"] = time.perf_counter() - start
            if on_gpu:
                found[name]["peak_memory_bytes"] = torch.cuda.max_memory_allocated()
                torch.cuda.reset_peak_memory_stats()
                torch.cuda.empty_cache()
            options.out.write_text(json.dumps(found, indent=2) + "\n")
            print(name, json.dumps(found[name]), flush=True)


if __name__ == "__main__":
    main()
