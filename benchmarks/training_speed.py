"""Training speed of the stacked engine against stock PEFT, in one run: ratios of medians on the same rows.

    python benchmarks/training_speed.py [--data DIR_WITH_E2E] [--device cuda --clients 64] [--before CHECKOUT]

Every contender trains LoRA on the query and value projections on the same rows, in the same precision, with AdamW.
- stacked: wavetune, all clients in one model, cut after 3 blocks (fp32 link)
- one client per pass: wavetune with stacking switched off, which shows what stacking alone is worth
- sequential PEFT: a loop over the clients, each a padded batch through a stock PEFT model
- centralised PEFT: the same rows as one padded batch through a stock PEFT model
- before: the stacked engine of another checkout of this repository (`git worktree add CHECKOUT COMMIT`)
Contenders take turns, so that a machine whose speed drifts treats all alike. "Useful" tokens are those of the rows,
without padding. The rows of a step are drawn at random; `--bucket` gives everyone batches of similar lengths instead.
"Of the products" is the share of the time that a step's matrix products alone would take at the speed of one large
product, measured between the turns: attention, adapters and everything element by element count as nothing.
Then, with adapters in the last blocks alone, a step whose first blocks are computed in every step against one that
finds there what they yielded before, in CPU seconds. And what a step of the stacked engine spends its time on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from wavetune.data.batching import Batching, batch_indices, collate
from wavetune.data.partition import Iid
from wavetune.data.settings import DataSettings, PreparedData, prepare
from wavetune.federation.codecs import Bf16, Codec, Fp32, Int8
from wavetune.federation.cohort import Cohort
from wavetune.federation.cut import CutLink
from wavetune.federation.door import Door
from wavetune.federation.optimise import AdamW, StackedOptimiser
from wavetune.federation.placement import Placement
from wavetune.federation.prefix import KeptPrefix
from wavetune.models.backbone import load_backbone, load_stock_model, load_tokenizer
from wavetune.models.lora import new_bank
from wavetune.models.resolve import resolve_model
from wavetune.runtimes.session import freeze

warnings.simplefilter("ignore")
TARGETS, RANK, ALPHA, CUT = ("q_proj", "v_proj"), 8, 16.0, 3
Rows = list[np.ndarray]


@dataclass(frozen=True)
class Setting:
    """What is measured."""

    model: str
    data: str
    clients: int
    batch_size: int
    device: str
    bf16: bool
    bucket: bool


def data_of(setting: Setting, folder: Path) -> PreparedData:
    """The corpus split evenly over the clients."""
    batching = Batching(setting.batch_size, "cohort" if setting.bucket else "none")
    settings = DataSettings(setting.data, partition=Iid(), batching=batching)
    return prepare(settings, load_tokenizer(folder), setting.clients, seed=0)


def rows_of(data: PreparedData, step: int, batching: Batching) -> Rows:
    """Each client's rows of a step."""
    return [
        own[batch_indices(data.train.lengths[own], batching, 0, client, step)]
        for client, own in enumerate(data.rows_by_client)
    ]


def new_cohort(setting: Setting, folder: Path, tokens_per_pass: int | None, codec: Codec | None = None) -> Cohort:
    """The stacked engine: split federated LoRA with all clients in one model."""
    from wavetune.federation.memory import default_tokens_per_pass

    backbone = load_backbone(folder, TARGETS, setting.bf16, setting.device)
    K = setting.clients
    placement = Placement(backbone.num_layers, (CUT,) * K, (None,) * K, (1 / K,) * K)
    bank = new_bank(backbone.sites, placement.local_LK(), [RANK] * K, RANK, ALPHA, seed=0, device=setting.device)
    link = CutLink(Door(), codec or Fp32(), codec or Fp32())
    if tokens_per_pass is None:
        tokens_per_pass = default_tokens_per_pass(backbone)
    optimiser = StackedOptimiser(bank, AdamW(schedule="constant", warmup_steps=0))
    return Cohort(backbone, bank, placement, link, optimiser, tokens_per_pass)


class StockPeft:
    """Stock transformers and PEFT, as their documentation trains: padded rows, the model's own loss."""

    def __init__(self, setting: Setting, folder: Path) -> None:
        from peft import LoraConfig, get_peft_model

        model = load_stock_model(folder)
        torch.nn.Module.to(model, setting.device, torch.bfloat16 if setting.bf16 else torch.float32)
        self.model = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=int(ALPHA), target_modules=list(TARGETS)))
        self.model.train()
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(trained, lr=2e-4, weight_decay=0.01)
        self.trained, self.device = trained, setting.device

    def step(self, data: PreparedData, rows: np.ndarray) -> None:
        """One optimiser step on one padded batch."""
        sequences = [data.train.row(i) for i in rows]
        longest = max(map(len, sequences))
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
        for position, (row, sequence) in enumerate(zip(rows, sequences, strict=True)):
            ids[position, : len(sequence)] = torch.from_numpy(sequence.astype(np.int64))
            mask[position, : len(sequence)] = 1
            start = data.train.label_start[row]
            labels[position, start : len(sequence)] = ids[position, start : len(sequence)]
        batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        self.model(**{name: tensor.to(self.device) for name, tensor in batch.items()}).loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()


def contenders(setting: Setting, folder: Path, data: PreparedData) -> dict[str, Callable[[Rows], None]]:
    """Name and one local step of each."""
    stacked, alone = new_cohort(setting, folder, None), new_cohort(setting, folder, 1)
    stock = StockPeft(setting, folder)

    def sequential(rows: Rows) -> None:
        for own in rows:
            stock.step(data, own)

    return {
        "stacked": lambda rows: _ignore(stacked.step(data.train, rows, 1.0)),
        "one client per pass": lambda rows: _ignore(alone.step(data.train, rows, 1.0)),
        "sequential PEFT": sequential,
        "centralised PEFT": lambda rows: stock.step(data, np.concatenate(rows)),
    }


def _ignore(*_: object) -> None:
    return None


def timings(
    setting: Setting, folder: Path, repeats: int, before: str | None = None
) -> tuple[PreparedData, list[int], list[float], dict[str, list[float]]]:
    """Data, useful tokens a step, seconds of the products of a useful token, and of everything for each contender.

    The first step of each list is for warming up.
    """
    data = data_of(setting, folder)
    batching = Batching(setting.batch_size, "cohort" if setting.bucket else "none")
    steps = contenders(setting, folder, data)
    child = Elsewhere(setting, before) if before else None
    seconds: dict[str, list[float]] = {name: [] for name in (*steps, *(["before"] if child else []))}
    useful, needed = list[int](), list[float]()
    for repeat in range(repeats + 1):
        rows = rows_of(data, repeat, batching)
        useful.append(sum(int(data.train.lengths[r].sum()) for r in rows))
        for name, step in steps.items():
            seconds[name].append(timed(lambda step=step, rows=rows: step(rows), setting.device) / useful[-1])
        if child:
            seconds["before"].append(child.step(repeat) / useful[-1])
        needed.append(operations(setting, folder, data, rows) / useful[-1] / product_speed(setting))
    return data, useful, needed, seconds


def measure(setting: Setting, repeats: int, before: str | None = None) -> dict[str, dict[str, float]]:
    """Print tokens per second of every contender, the ratios of medians and the share of the products in the time."""
    data, useful, needed, seconds = timings(setting, resolve_model(setting.model).folder, repeats, before)
    precision = "bf16" if setting.bf16 else "fp32"
    print(
        f"\n{setting.model}, {data.corpus.name}, {precision}, {setting.device}: {setting.clients} clients x "
        f"{setting.batch_size} rows, {statistics.mean(useful):.0f} useful tokens a step, median of {repeats}"
    )
    print(f"{'':24s}{'useful tokens/s':>16s}{'stacked is':>12s}{'of the products':>17s}")
    found: dict[str, dict[str, float]] = {}
    for name, times in seconds.items():
        speed = 1 / statistics.median(times[1:])
        ratio = statistics.median(b / a for a, b in zip(seconds["stacked"][1:], times[1:], strict=True))
        share = statistics.median(a / b for a, b in zip(needed[1:], times[1:], strict=True))
        print(f"{name:24s}{speed:16.0f}{ratio:11.2f}x{100 * share:15.0f} %")
        found[name] = {"useful_tokens_per_s": speed, "stacked_is_times": ratio, "share_of_products": share}
    return found


def timed(step: Callable[[], object], device: str) -> float:
    """Seconds of a step."""
    start = time.perf_counter()
    step()
    _synchronise(device)
    return time.perf_counter() - start


def _synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


class Elsewhere:
    """The stacked engine of another checkout, in a process of its own that waits for its turns."""

    def __init__(self, setting: Setting, checkout: str) -> None:
        root = Path(checkout).resolve()
        paths = os.pathsep.join([str(root / "src"), str(root / "benchmarks")])
        self.child = subprocess.Popen(
            [sys.executable, "-c", _TURNS, json.dumps(setting.__dict__)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": paths},
        )  # fmt: skip

    def step(self, number: int) -> float:
        """Seconds of the step with these rows."""
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        print(number, file=self.child.stdin, flush=True)
        return float(self.child.stdout.readline())


_TURNS = """
import json, sys, time
import training_speed as ts
setting = ts.Setting(**json.loads(sys.argv[1]))
folder = ts.resolve_model(setting.model).folder
data, cohort = ts.data_of(setting, folder), ts.new_cohort(setting, folder, None)
batching = ts.Batching(setting.batch_size, "cohort" if setting.bucket else "none")
for line in sys.stdin:
    rows = ts.rows_of(data, int(line), batching)
    start = time.perf_counter()
    cohort.step(data.train, rows, 1.0)
    print(time.perf_counter() - start, flush=True)
"""


def operations(setting: Setting, folder: Path, data: PreparedData, rows: Rows) -> float:
    """Floating-point operations of a step's products with frozen weights: forward, and backward to their inputs."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    head = model.get_output_embeddings().weight.numel()
    maps = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear)) - head
    work = [collate(data.train, [own]).work_by_client(1) for own in rows]
    tokens, labelled = (sum(int(w[name].sum()) for w in work) for name in ("tokens", "labelled"))
    return 4.0 * (maps * tokens + head * labelled)


def product_speed(setting: Setting) -> float:
    """Operations per second of one large product in the setting's precision, the best of three."""
    dtype = torch.bfloat16 if setting.bf16 else torch.float32
    size = 8192 if setting.device == "cuda" else 2048
    a, b = (torch.randn(size, size, device=setting.device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / min(timed(lambda: a @ b, setting.device) for _ in range(3))


def many_small(setting: Setting, repeats: int) -> None:
    """Print the CPU time per token of many clients of one row each, beside an eighth as many of 8 rows."""
    folder = resolve_model(setting.model).folder
    few, many = (replace(setting, clients=setting.clients * n, batch_size=8 // n) for n in (1, 8))
    sides = [(s, data_of(s, folder), new_cohort(s, folder, None)) for s in (few, many)]
    ratios: list[float] = []
    for repeat in range(repeats + 1):
        times: list[float] = []
        for side, data, cohort in sides:
            rows = rows_of(data, repeat, Batching(side.batch_size, "none"))
            useful = sum(int(data.train.lengths[r].sum()) for r in rows)
            clock = time.process_time if side.device == "cpu" else time.perf_counter
            start = clock()
            timed(lambda c=cohort, d=data, r=rows: c.step(d.train, r, 1.0), side.device)
            times.append((clock() - start) / useful)
        ratios.append(times[1] / times[0])
    ratio = statistics.median(ratios[1:])
    print(f"{many.clients} clients of one row take {ratio:.2f} times as long a useful token as {few.clients} of 8 rows")


def machine() -> str:
    """The processor, what it multiplies with, and the threads in use."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    found = dict(re.findall(r"^(model name|flags)\s*:\s*(.*)$", text, re.MULTILINE))
    flags = [f for f in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f in found.get("flags", "").split()]
    name = found.get("model name", platform.processor() or platform.machine())
    return f"{name}, {' '.join(flags) or 'no vector flags known'}, {torch.get_num_threads()} threads of PyTorch"


def frozen_prefix(setting: Setting, trained: int, repeats: int) -> None:
    """Print the CPU seconds of a step that trains the last blocks alone, with and without what is kept below them."""
    folder = resolve_model(setting.model).folder
    data = data_of(setting, folder)
    rows = rows_of(data, 0, Batching(setting.batch_size, "none"))
    cohorts = {name: new_cohort(setting, folder, None) for name in ("computed", "kept")}
    trained = min(trained, cohorts["kept"].backbone.num_layers - 1)
    for cohort in cohorts.values():
        K, L = setting.clients, cohort.backbone.num_layers
        cohort.placement = Placement(L, (L,) * K, (None,) * K, (1 / K,) * K, split=False)
        local_LK = cohort.placement.local_LK()
        cohort.bank = new_bank(cohort.backbone.sites, local_LK, [RANK] * K, RANK, ALPHA, seed=0, device=setting.device)
        freeze(cohort.bank, {site.name for site in cohort.bank.sites if site.layer < L - trained})
        cohort.optimiser = StackedOptimiser(cohort.bank, AdamW(schedule="constant", warmup_steps=0))
    cohorts["kept"].prefix = KeptPrefix(cohorts["kept"].backbone, L - trained, 2_000_000_000)
    seconds: dict[str, list[float]] = {name: [] for name in cohorts}
    for _ in range(repeats + 1):
        for name, cohort in cohorts.items():
            start = time.process_time()
            cohort.step(data.train, rows, 1.0)
            _synchronise(setting.device)
            seconds[name].append(time.process_time() - start)
    print(f"\n{trained} of {L} blocks trained, CPU seconds of a step: the first one, then the median of {repeats}")
    for name, spent in seconds.items():
        print(f"{name:24s}{spent[0]:10.2f}{statistics.median(spent[1:]):10.2f}")
    ratio = statistics.median(a / b for a, b in zip(*(spent[1:] for spent in seconds.values()), strict=True))
    print(f"{'kept is faster':24s}{ratio:19.2f}x")


PARTS = {
    "products with the base": (),  # told by their shapes from the next
    "products of adapters": (),
    "attention": ("attention",),
    "compiled norms and gated MLPs": ("_RmsNorm", "_GatedProduct"),
    "copies, casts and zeros": ("copy_", "zero_", "fill_", "index", "cat", "empty", "gather", "scatter"),
    "element by element": ("aten::",),
    "between the operators": ("",),
}
"""What a step spends its time on, and what the names of its operators begin or end with."""


def part_of(name: str, shapes: Sequence[Sequence[int]]) -> str:
    """Which of the parts an operator with tensors of these shapes belongs to."""
    if name in ("aten::mm", "aten::addmm", "aten::bmm"):
        sizes = [size for shape in shapes for size in shape if len(shape) > 1]
        return list(PARTS)[0 if min(sizes, default=0) > 4 * RANK else 1]
    return next(part for part, names in PARTS.items() if any(own in name for own in names))


def profiled(setting: Setting) -> None:
    """Print what a step of the stacked engine spends its CPU time on, after one that warms up."""
    folder = resolve_model(setting.model).folder
    data, cohort = data_of(setting, folder), new_cohort(setting, folder, None)
    for number in range(2):
        rows = rows_of(data, number, Batching(setting.batch_size, "none"))
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as found:
            seconds = timed(lambda rows=rows: cohort.step(data.train, rows, 1.0), setting.device)
    spent = dict.fromkeys(PARTS, 0.0)
    for event in found.key_averages(group_by_input_shape=True):
        spent[part_of(event.key, event.input_shapes)] += event.self_cpu_time_total / 1e6
    spent["between the operators"] += max(0.0, seconds - sum(spent.values()))
    useful, speed = sum(int(data.train.lengths[r].sum()) for r in rows), product_speed(setting)
    print(f"\na step of {useful} useful tokens takes {seconds:.2f} s under the profiler, of which")
    for part, own in spent.items():
        print(f"{part:32s}{own:8.2f} s{100 * own / seconds:6.0f} %")
    least = operations(setting, folder, data, rows) / speed
    print(f"{f'at {speed / 1e9:.0f} Gflop/s the base takes':32s}{least:8.2f} s{100 * least / seconds:6.0f} %")


def gradient_error(setting: Setting, codecs: Sequence[Codec]) -> None:
    """Print, for each codec at the cut, its bits a value and the relative error of the clients' gradients."""
    folder = resolve_model(setting.model).folder
    data = data_of(setting, folder)
    rows = rows_of(data, 0, Batching(setting.batch_size, "none"))
    print(f"\ncodec at the cut after block {CUT}: relative error of the clients' gradients, one step")
    print(f"{'activations':>20s}{'gradients':>20s}{'bits/value':>12s}{'error':>10s}")
    exact = None
    for up, down in [(Fp32(), Fp32()), *((c, Fp32()) for c in codecs), *((Fp32(), c) for c in codecs)]:
        cohort = new_cohort(setting, folder, None)
        spread(cohort)
        cohort.link = CutLink(Door(), up, down)
        cohort.optimiser.step_clients = cohort.optimiser.step_server = _ignore  # type: ignore[method-assign]
        cohort.step(data.train, rows, 1.0)
        gradient = torch.cat([p.grad.flatten() for p in cohort.bank.parameters(local=True) if p.grad is not None])
        exact = gradient if exact is None else exact
        values = cohort.backbone.model.config.hidden_size * sum(int(data.train.lengths[r].sum()) for r in rows)
        kind = "activations_up" if up != Fp32() else "gradients_down"
        bits = sum(n for (name, _), n in cohort.link.door.bits.items() if name == kind) / values
        error = float((gradient - exact).norm() / exact.norm())
        print(f"{_name(up):>20s}{_name(down):>20s}{bits:12.2f}{error:10.4f}")


def spread(cohort: Cohort) -> None:
    """Move all B away from zero, where the gradient of A vanishes."""
    generator = torch.Generator().manual_seed(0)
    for stacks in (cohort.bank.local, cohort.bank.shared):
        for pair in stacks.values():
            with torch.no_grad():
                pair["B"].copy_(0.02 * torch.randn(pair["B"].shape, generator=generator))


def _name(codec: Codec) -> str:
    return f"int8, {codec.outlier_channels} outliers" if isinstance(codec, Int8) else codec.kind


def peak_memory(setting: Setting, counts: Sequence[int]) -> None:
    """Print the peak memory of a process that takes two steps with that many clients, beside one client's."""
    print("\npeak memory of the whole process, clients per pass chosen automatically")
    first = None
    for clients in counts:
        command = [sys.executable, __file__, "--child-memory", json.dumps({**setting.__dict__, "clients": clients})]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peak = float(done.stdout.split()[-1])
        first = first or peak
        print(f"{clients:4d} clients{peak / 2**30:8.2f} GiB{peak / first:8.2f}x")


def child_memory(setting: Setting) -> None:
    """Two steps, then the peak on the last line."""
    folder = resolve_model(setting.model).folder
    data, cohort = data_of(setting, folder), new_cohort(setting, folder, None)
    for step in range(2):
        cohort.step(data.train, rows_of(data, step, Batching(setting.batch_size, "none")), 1.0)
    on_gpu = setting.device == "cuda"
    peak = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(peak)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and run every part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--data", default="restaurants", help="restaurants, or a folder with JSON lines")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="both", choices=["fp32", "bf16", "both"])
    parser.add_argument("--bucket", action="store_true")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--memory-clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--trained-blocks", type=int, default=4)
    parser.add_argument("--only", choices=["speed", "clients", "prefix", "profile", "codecs", "memory"])
    parser.add_argument("--before", metavar="CHECKOUT", help="a checkout of another commit, whose engine takes turns")
    parser.add_argument("--child-memory", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child_memory:
        child_memory(Setting(**json.loads(options.child_memory)))
        return
    fixed = (options.model, options.data, options.clients, options.batch_size, options.device)
    wanted = ["fp32", "bf16"] if options.precision == "both" else [options.precision]
    settings = [Setting(*fixed, precision == "bf16", options.bucket) for precision in wanted]
    print(machine())
    if options.only in (None, "speed"):
        for setting in settings:
            measure(setting, options.repeats, options.before)
    if options.only in (None, "clients"):
        many_small(settings[0], options.repeats)
    if options.only in (None, "prefix"):
        frozen_prefix(settings[0], options.trained_blocks, options.repeats)
    if options.only in (None, "profile") and options.device == "cpu":
        for setting in settings:
            profiled(setting)
    if options.only in (None, "codecs"):
        gradient_error(settings[0], [Bf16(), *(Int8(outlier_channels=n) for n in (0, 4, 8, 16))])
    if options.only in (None, "memory"):
        peak_memory(settings[0], options.memory_clients)


if __name__ == "__main__":
    main()
