"""What a step of local alignment takes: CPU seconds by its parts, and beside another commit's in one run.

    python benchmarks/alignment.py [--model smollm2-135m] [--clients 5] [--before CHECKOUT]
    python benchmarks/alignment.py --run [--before CHECKOUT | --count]

The clients of the recipe `pwff` (shared bottlenecks and private LoRA in all blocks, here with random values) answer
prompts of the embedded concierge, four answers each, and learn from them by PPO as the recipe does. Rewards are
functions that cost nothing, so that what is timed is answering, measuring and learning. With `--before` the other
checkout (`git worktree add CHECKOUT COMMIT`) takes turns in a process of its own, as this one does. Told are the
median over the steps after the first, the ratio of medians, and the peak of resident memory in MB. Of one more step the
floating-point operations of the products are counted, and what they alone would take at the speed of one large product.

With `--run` it is the whole of `wavetune run pwff`, both sides in memory and in turns, each from where one stage begins
to where the next does: every stage for a part of what it does by default, and the CPU seconds that the default's would
take, each stage multiplied by what was left out of it. Reward models are trained, and the untouched model evaluated,
even where the cache holds what they come to. With `--count` the products of each stage are counted in place of its
time.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import runpy
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

PARTS = ("answers_of", "measured", "_learn")
SHORT = (
    "run.rounds=1", "run.local_steps=1", "run.evaluate_every=1", "world.data.validation_samples=20",
    "method.alignment.learning.steps=1", "method.alignment.held_out_prompts=18",
    *(
        f"method.alignment.{reward}.training.{setting}"
        for reward in ("helpful", "safe")
        for setting in ("steps=10", "evaluate_every=10", "validation_pairs=50", "test_pairs=28")
    ),
)  # fmt: skip
STAGES = {
    "open and plan": ("wavetune.runtimes.inprocess", "build", 1),
    "local steps": ("wavetune.federation.cohort", "Cohort.step_on", 24),
    "validation losses": ("wavetune.federation.cohort", "Cohort.evaluate", 10),
    "reward models": ("wavetune.runtimes.rewards", "RewardFolder.train", 7),  # helpful 120 steps, safe 20
    "rewards and truth": ("wavetune.runtimes.train_reward", "correlation_with_truth", 1),
    "held-out answers": ("wavetune.federation.alignment", "Alignment.evaluate", 2.25),  # 24 prompts of a client, not 54
    "steps of alignment": ("wavetune.federation.alignment", "Alignment.step", 8),
    "sample answers": ("wavetune.runtimes.inprocess", "answers_of", 1),
}
"""Of each stage: what takes its time, less that of stages within it, and how much more of it the default has."""
HERE = Path(__file__).resolve()
TURNS = "WAVETUNE_BENCHMARK_TURNS"
"""Set in the environment of processes that stop at each stage."""


def stage_of(model: str, clients: int, prompts: int, new_tokens: int) -> Any:
    """The stage of alignment, ready for its first step."""
    import numpy as np
    import torch

    from wavetune import recipes
    from wavetune.data.settings import DataSettings, prepare
    from wavetune.federation.alignment import Alignment, Client, Model, Rewards
    from wavetune.models.backbone import load_backbone, load_tokenizer
    from wavetune.models.lora import new_bank
    from wavetune.models.resolve import resolve_model

    torch.set_num_threads(1)
    method, folder = recipes.get("pwff").method, resolve_model(model).folder
    tokenizer = load_tokenizer(folder)
    data = prepare(DataSettings("concierge", train_samples=40 * clients, validation_samples=4), tokenizer, clients, 0)
    rows = [[data.corpus.train[data.train.example_index[row]] for row in own] for own in data.rows_by_client]
    beside: Any = getattr(method, "beside_lora", method.bottleneck)  # as older commits have it
    backbone = load_backbone(folder, None, False, "cpu", beside)
    own_LK = np.ones((backbone.num_layers, clients), np.bool_)
    bank = new_bank(backbone.sites, own_LK, [12] * clients, 12, 16.0, 0)
    drawn = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for values in bank.parameters(local=True):
            if not values.any():
                values.copy_(0.02 * torch.randn(values.shape, generator=drawn))
    rewards = Rewards(lambda _, texts: [len(text) for text in texts], lambda _, texts: [len({*t}) for t in texts])
    wishes = [Client(k, k / max(1, clients - 1), tuple(own)) for k, own in enumerate(rows)]
    assert method.alignment is not None
    learning = replace(method.alignment.learning, prompts_per_step=prompts, max_new_tokens=new_tokens)
    return Alignment(Model(backbone, bank, tokenizer), wishes, rewards, learning, 0)


def timed(place: Any, attribute: str, name: str, spent: dict[str, float], count: bool = False) -> None:
    """Have the CPU seconds of a function added up under a name, or the TFLOP of its products, which takes longer."""
    function: Callable[..., Any] = getattr(place, attribute)

    def run(*given: Any, **named: Any) -> Any:
        let_others()
        with products_counted() if count else nullcontext() as counter:
            start, before = time.process_time(), sum(spent.values())
            try:
                return function(*given, **named)
            finally:
                found = counter.get_total_flops() / 1e12 if counter else time.process_time() - start
                spent[name] = spent.get(name, 0.0) + found - (sum(spent.values()) - before)

    setattr(place, attribute, run)


def let_others() -> None:
    """Stop until the process that runs others in turns lets this one go on."""
    if TURNS in os.environ:
        os.kill(os.getpid(), signal.SIGSTOP)


def products_counted() -> Any:
    """A context that counts the floating-point operations of products."""
    from torch.utils.flop_counter import FlopCounterMode

    return FlopCounterMode(display=False)


def watched(spent: dict[str, float]) -> None:
    """Have the CPU seconds of a step's parts added up."""
    from wavetune.federation.alignment import reward_learning

    for name in PARTS:
        place: Any = reward_learning if hasattr(reward_learning, name) else reward_learning.RewardLearning
        timed(place, name, name, spent)


def peak_mb() -> float:
    """The largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def turns(given: Sequence[Any]) -> None:
    """Take a step for every line, and print its CPU seconds, in all and by part, and the peak so far.

    After a line with a word the products of the step are counted, which takes longer.
    """
    spent: dict[str, float] = {}
    watched(spent)
    stage = stage_of(*given)
    for line in sys.stdin:
        spent.clear()
        start = time.process_time()
        found = products_of(stage) if line.strip() else stage.step() and {}
        found |= {"a step": time.process_time() - start, **spent, "peak, MB": peak_mb()}
        print(json.dumps(found), flush=True)


def products_of(stage: Any) -> dict[str, float]:
    """Operations of the products of a step, and what they would take at the speed of one large product."""
    with products_counted() as counter:
        stage.step()
    tflop = counter.get_total_flops() / 1e12
    return {"TFLOP": tflop, "products": tflop * large_product_s()}


def large_product_s() -> float:
    """CPU seconds of a TFLOP in one large product."""
    import torch

    a, b, seconds = torch.randn(1024, 1024), torch.randn(1024, 1024), list[float]()
    for _ in range(9):
        start = time.thread_time()
        _ = a @ b
        seconds.append(time.thread_time() - start)
    return 1e12 / (2 * 1024**3) * statistics.median(seconds)


def stages_of(named: str) -> tuple[Any, str]:
    """Where a stage's function is, and its name there."""
    module, path, _ = STAGES[named]
    *outer, last = path.split(".")
    place: Any = importlib.import_module(module)
    for name in outer:
        place = getattr(place, name)
    return place, last


def whole_run(count: bool) -> None:
    """Run a short `pwff` in this process, and print what its stages took, or the TFLOP of their products."""
    from wavetune.models import light_imports

    light_imports.install()
    import torch

    torch.set_num_threads(1)
    spent: dict[str, float] = {}
    for name in STAGES:
        place, attribute = stages_of(name)
        timed(place, attribute, name, spent, count)
    if count:
        spent["a TFLOP"] = large_product_s()
    spent["imports"] = time.process_time()
    nothing: Any = lambda *_: None  # noqa: E731
    made: Any = lambda _place, make, *_: make()  # noqa: E731
    for module, name, own in (
        ("reward_cache", "recall", nothing),
        ("untouched_cache", "kept", made),
        ("kept_rewards", "recall", nothing),  # as older commits call them, of which the oldest keep nothing
        ("kept_untouched", "kept", made),
        ("kept_untouched", "recalled", nothing),
    ):
        with suppress(ImportError):
            setattr(importlib.import_module(f"wavetune.runtimes.{module}"), name, own)
    with tempfile.TemporaryDirectory() as folder:
        words = [word for setting in SHORT for word in ("--set", setting)]
        sys.argv = ["wavetune", "run", "pwff", "--out", f"{folder}/run", *words]
        try:
            runpy.run_module("wavetune", run_name="__main__")
        except SystemExit as end:
            if end.code:
                raise
    spent["all else"] = time.process_time() - sum(spent.values())
    print(json.dumps(spent | {"peak, MB": peak_mb()}), flush=True)


def stages_in(checkouts: dict[str, Path], what: str) -> dict[str, dict[str, float]]:
    """What `whole_run` tells in processes of their own, with the package of each checkout, which take turns."""
    said = in_turns([sys.executable, str(HERE), "--stages", what], checkouts)
    return {name: json.loads(words.splitlines()[-1]) for name, words in said.items()}


def in_turns(command: Sequence[str], checkouts: dict[str, Path]) -> dict[str, str]:
    """What a command says with the package of each checkout: one process runs at a time, until it stops or ends."""
    sides = dict[str, subprocess.Popen[bytes]]()
    with tempfile.TemporaryDirectory() as folder:  # a pipe would hold a process up that nobody listens to
        try:
            for name, checkout in checkouts.items():
                environment = os.environ | {"PYTHONPATH": str(checkout.resolve() / "src"), TURNS: "1"}
                with (Path(folder) / name).open("w") as file:
                    sides[name] = subprocess.Popen(command, stdout=file, env=environment)
                stopped_or_ended(sides[name], command)
            while any(side.returncode is None for side in sides.values()):
                for side in sides.values():
                    if side.returncode is None:
                        side.send_signal(signal.SIGCONT)
                        stopped_or_ended(side, command)
            return {name: (Path(folder) / name).read_text() for name in sides}
        finally:
            for side in sides.values():
                if side.returncode is None:
                    side.kill()
                    side.wait()


def stopped_or_ended(side: subprocess.Popen[bytes], command: Sequence[str]) -> None:
    """Wait for a process to stop or to end. Raises CalledProcessError if it fails."""
    _, status = os.waitpid(side.pid, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        side.returncode = os.waitstatus_to_exitcode(status)
        if side.returncode:
            raise subprocess.CalledProcessError(side.returncode, list(command))


def counted_run(checkout: Path) -> None:
    """Print the products of the stages of a checkout's default run, and what they would take at full speed."""
    counted = stages_in({"now": checkout}, "count")["now"]
    print(f"wavetune run pwff: products, and their CPU seconds at {1 / counted['a TFLOP']:.3f} TFLOP a second")
    print(f"{'':20s}{'TFLOP':>10s}{'CPU s':>10s}")
    for name, (_, _, factor) in STAGES.items():
        tflop = factor * counted.get(name, 0.0)
        print(f"{name:20s}{tflop:10.2f}{tflop * counted['a TFLOP']:10.0f}")


def compared_runs(checkouts: dict[str, Path]) -> None:
    """Print the stages of the default run of each checkout."""
    sides = stages_in(checkouts, "time")
    print("wavetune run pwff, CPU seconds of one thread: what was run, and the default of which it is a part")
    print(f"{'':20s}" + "".join(f"{name:>10s}{'':10s}" for name in sides))
    totals = dict.fromkeys(sides, 0.0)
    for stage in ("imports", *STAGES, "all else"):
        factor = STAGES[stage][2] if stage in STAGES else 1
        line = f"{stage:20s}"
        for name, spent in sides.items():
            totals[name] += factor * spent.get(stage, 0.0)
            line += f"{spent.get(stage, 0.0):10.1f}{factor * spent.get(stage, 0.0):10.0f}"
        print(line)
    print(f"{'all':20s}" + "".join(f"{'':10s}{total:10.0f}" for total in totals.values()))
    print(f"{'peak, MB':20s}" + "".join(f"{spent['peak, MB']:10.0f}{'':10s}" for spent in sides.values()))
    if "before" in totals:
        print(f"the run is {totals['before'] / totals['now']:.2f} times as fast as before")


class Side:
    """A process that takes steps with the package of a checkout."""

    def __init__(self, checkout: Path, given: Sequence[Any]) -> None:
        command = [sys.executable, str(HERE), "--turns", json.dumps(given)]
        self.child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": str(checkout.resolve() / "src")},
        )  # fmt: skip

    def step(self, how: str = "") -> dict[str, float]:
        """What a step took."""
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        print(how, file=self.child.stdin, flush=True)
        return json.loads(self.child.stdout.readline())

    def end(self) -> None:
        """Let the process end."""
        self.child.communicate()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--clients", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=4, help="of each client in a step, four answers to each")
    parser.add_argument("--new-tokens", type=int, default=40)
    parser.add_argument("--steps", type=int, default=2, help="after the first, which warms up")
    parser.add_argument("--before", metavar="CHECKOUT", help="a checkout of another commit, which takes turns")
    parser.add_argument("--run", action="store_true", help="the whole run in place of a step")
    parser.add_argument("--turns", help=argparse.SUPPRESS)
    parser.add_argument("--count", action="store_true", help="with --run: the products of the stages, not their time")
    parser.add_argument("--stages", choices=("time", "count"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.turns:
        turns(json.loads(options.turns))
        return
    if options.stages:
        whole_run(options.stages == "count")
        return
    given = (options.model, options.clients, options.prompts, options.new_tokens)
    checkouts = {"now": HERE.parents[1]} | ({"before": Path(options.before)} if options.before else {})
    if options.run and options.count:
        counted_run(checkouts["now"])
        return
    if options.run:
        compared_runs(checkouts)
        return
    sides = {name: Side(path, given) for name, path in checkouts.items()}
    steps = [{name: side.step() for name, side in sides.items()} for _ in range(options.steps + 1)][1:]
    counted = sides["now"].step("count")
    for side in sides.values():
        side.end()
    answers = 4 * options.clients * options.prompts
    print(f"{options.model}, {options.clients} clients, {answers} answers a step, CPU seconds of one thread")
    print(f"{'':14s}" + "".join(f"{name:>12s}" for name in sides))
    for what in ("a step", *PARTS, "peak, MB"):
        medians = [statistics.median(step[name].get(what, 0.0) for step in steps) for name in sides]
        print(f"{what:14s}" + "".join(f"{value:12.1f}" for value in medians))
    print(
        f"products of a step: {counted['TFLOP']:.2f} TFLOP, {counted['products']:.1f} CPU s at the speed of a large one"
    )
    if options.before:
        ratio = statistics.median(step["before"]["a step"] / step["now"]["a step"] for step in steps)
        print(f"a step is {ratio:.2f} times as fast as before")


if __name__ == "__main__":
    main()
