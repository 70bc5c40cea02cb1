"""What a round takes with more clients, and what a larger model takes: CPU seconds and memory of whole recipes.

    python benchmarks/scale.py [--model tiny] [--clients 8 32 128 500] [--large 8]

Each case is a process of its own, which plans, opens the model and trains one round of one local step of a row a
client, by `--recipe`. Told are CPU seconds and the peak of resident memory on top of what the imports take, and the
slope of both over the number of clients, by least squares, with the largest distance of a case from the line.
With `--large K` the same is done once, in int8 if that is the `--precision` and in bf16 else, for a random Llama stored
in bf16 (TinyLlama's shape unless `--sizes` says otherwise) in a temporary folder: its bytes per parameter when
it is open and at the peak of a round. Pages of its file that are mapped count as resident, though the system can drop
them: they are told apart.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import resource
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

LARGE = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32,
         "num_key_value_heads": 4, "vocab_size": 32000, "max_position_embeddings": 2048}  # fmt: skip
SHARD_BYTES, INDEX = 200 << 20, "model.safetensors.index.json"


def settings(model: str, clients: int, precision: str, max_tokens: int, *others: str) -> list[str]:
    """One round of one local step of a row a client."""
    bands = [f"world.scenario.bands.{band}.num_subchannels={max(20, 2 * clients)}" for band in ("main", "fed")]
    return [
        f"world.model={model}",
        f"world.scenario.population.num_clients={clients}",
        *bands,
        f"world.data.train_samples={4 * clients}",
        "world.data.validation_samples=4",
        f"world.data.max_tokens={max_tokens}",
        "world.data.partition=iid",
        "world.data.batching.batch_size=1",
        "run.local_steps=1",
        "run.rounds=1",
        f"run.precision={precision}",
        *others,
    ]


def used() -> tuple[float, float, float]:
    """CPU seconds so far; most megabytes that were resident; megabytes of mapped files that are."""
    now = resource.getrusage(resource.RUSAGE_SELF)
    mapped = re.search(r"RssFile:\s+(\d+)", Path("/proc/self/status").read_text(encoding="ascii"))
    return now.ru_utime + now.ru_stime, now.ru_maxrss / 1024, int(mapped[1]) / 1024 if mapped else 0.0


def a_round(recipe: str, model: str, clients: int, *given: Any) -> dict[str, float]:
    """CPU seconds of building a session and of a round; megabytes on top of the imports, when built and at the peak."""
    import torch

    from wavetune import recipes
    from wavetune.recipe import with_settings
    from wavetune.runtimes.round import train_round
    from wavetune.runtimes.session import Session, build

    torch.set_num_threads(1)
    begun_s, begun_mb, files_mb = used()
    session = build(with_settings(recipes.get(recipe), settings(model, clients, *given)))
    assert isinstance(session, Session), session
    built_s, built_mb, open_mb = used()
    outcome = train_round(session, 0, lambda *_: None)
    outcome.record(None)
    done_s, done_mb, mapped_mb = used()
    return {"build_s": built_s - begun_s, "round_s": done_s - built_s, "built_mb": built_mb - begun_mb,
             "peak_mb": done_mb - begun_mb, "open_mapped_mb": open_mb - files_mb, "mapped_mb": mapped_mb - files_mb,
             "tokens": float(sum(step.tokens for step in outcome.results)), "imports_mb": begun_mb}  # fmt: skip


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def told(case: dict[str, float]) -> str:
    """A case as a line."""
    return (
        f"build {case['build_s']:.1f} CPU s, round {case['round_s']:.2f} CPU s of {case['tokens']:.0f} tokens, "
        f"peak {case['peak_mb']:.0f} MB on top of {case['imports_mb']:.0f}"
    )


def over_clients(recipe: str, model: str, clients: Sequence[int], *given: Any) -> None:
    """Cases of ever more clients, and the slopes."""
    cases = list[dict[str, float]]()
    for count in clients:
        cases.append(alone(a_round, recipe, model, count, *given))
        print(f"{recipe}, {model}, {count} clients: {told(cases[-1])}", flush=True)
    if len(clients) < 2:
        return
    for name, unit in (("round_s", "CPU s of a round"), ("build_s", "CPU s before it"), ("peak_mb", "MB at the peak")):
        values = np.array([case[name] for case in cases])
        slope, start = np.polyfit(clients, values, 1)
        off = np.abs(values - slope * np.array(clients) - start).max()
        print(f"  {unit}: {slope:.4f} a client and {start:.1f}, at most {off:.1f} beside the line")


def write_random(folder: Path, sizes: dict[str, int], tokenizer: Path) -> None:
    """A random Llama in bf16, shard by shard, so that it is never in memory."""
    import shutil

    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model("llama", **sizes, tie_word_embeddings=False, dtype="bfloat16")
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (tokenizer / name).exists():
            shutil.copy(tokenizer / name, folder)
    with torch.device("meta"):
        shapes = {name: p.shape for name, p in AutoModelForCausalLM.from_config(config).named_parameters()}
    torch.manual_seed(0)
    values = (0.02 * torch.randn(1 << 22)).bfloat16()  # drawn once, as drawing a billion takes longer than a step
    shard, where, total = dict[str, torch.Tensor](), dict[str, str](), 0
    for index, (name, shape) in enumerate(shapes.items()):
        size = shape.numel()
        drawn = values.repeat(-(-size // len(values)))[:size].view(shape)
        shard[name] = drawn.clone() if len(shape) > 1 else torch.ones(shape, dtype=torch.bfloat16)
        total += size
        if index + 1 == len(shapes) or sum(t.nbytes for t in shard.values()) > SHARD_BYTES:
            file = f"model-{index:05d}.safetensors"
            save_file(shard, folder / file, metadata={"format": "pt"})
            where |= dict.fromkeys(shard, file)
            shard = {}
    about = {"metadata": {"total_size": 2 * total}, "weight_map": where}
    (folder / INDEX).write_text(json.dumps(about), encoding="utf-8")


def large(recipe: str, sizes: dict[str, int], clients: int, folder: Path, precision: str, *given: Any) -> None:
    """A large model, written if it is not there, opened and trained for a step."""
    from wavetune.models.resolve import resolve_model

    if not (folder / INDEX).exists():
        alone(write_random, folder, sizes, resolve_model("tiny").folder)
    parameters = json.loads((folder / INDEX).read_text(encoding="utf-8"))["metadata"]["total_size"] // 2
    case = alone(a_round, recipe, json.dumps(str(folder)), clients, precision, *given)
    print(f"{recipe}, {parameters / 1e9:.3f} billion parameters in {precision}, {clients} clients: {told(case)}")
    for what, mb, mapped in (("open", "built_mb", "open_mapped_mb"), ("at the peak", "peak_mb", "mapped_mb")):
        each, of_file = (case[name] * 2**20 / parameters for name in (mb, mapped))
        print(f"  {what}: {each:.2f} bytes a parameter, of which mapped pages of the file {of_file:.2f}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="sflllm")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--clients", type=int, nargs="*", default=[8, 32, 128])
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16", "int8"])
    parser.add_argument("--max-tokens", type=int, default=256, help="of a row; longer ones are cut")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="of the recipe")
    parser.add_argument("--large", type=int, default=0, metavar="CLIENTS", help="a random large model, so many clients")
    parser.add_argument("--sizes", type=json.loads, default=LARGE, help="of the large model, as JSON")
    parser.add_argument("--folder", type=Path, help="where the large model is kept; by default nowhere")
    options = parser.parse_args(arguments)
    given = (options.max_tokens, *options.set)
    if options.clients:
        over_clients(options.recipe, options.model, options.clients, options.precision, *given)
    if options.large:
        with tempfile.TemporaryDirectory() as nowhere:
            precision = "int8" if options.precision == "int8" else "bf16"
            large(options.recipe, options.sizes, options.large, options.folder or Path(nowhere), precision, *given)


if __name__ == "__main__":
    main()
