"""What a step of local alignment takes: CPU seconds by its parts, and beside another commit's in one run.

    python benchmarks/alignment.py [--model smollm2-135m] [--clients 5] [--before CHECKOUT]

The clients of the recipe `pwff` (shared bottlenecks and private LoRA in all blocks, here with random values) answer
prompts of the embedded concierge, four answers each, and learn from them by PPO as the recipe does. Rewards are
functions that cost nothing, so that what is timed is answering, measuring and learning. With `--before` the other
checkout (`git worktree add CHECKOUT COMMIT`) takes turns in a process of its own, as this one does. Told are the
median over the steps after the first, the ratio of medians, and the peak of resident memory in MB.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

PARTS = ("answers_of", "measured", "_learn")
HERE = Path(__file__).resolve()


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


def watched(spent: dict[str, float]) -> None:
    """Have the CPU seconds of a step's parts added up."""
    from wavetune.federation.alignment import reward_learning

    def timed(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def run(*given: Any, **named: Any) -> Any:
            start = time.process_time()
            try:
                return function(*given, **named)
            finally:
                spent[name] = spent.get(name, 0.0) + time.process_time() - start

        return run

    for name in PARTS:
        place: Any = reward_learning if hasattr(reward_learning, name) else reward_learning.RewardLearning
        setattr(place, name, timed(getattr(place, name), name))


def turns(given: Sequence[Any]) -> None:
    """Take a step for every line, and print its CPU seconds, in all and by part, and the peak so far."""
    spent: dict[str, float] = {}
    watched(spent)
    stage = stage_of(*given)
    for _ in sys.stdin:
        spent.clear()
        start = time.process_time()
        stage.step()
        found = {"a step": time.process_time() - start, **spent}
        found["peak, MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(found), flush=True)


class Side:
    """A process that takes steps with the package of a checkout."""

    def __init__(self, checkout: Path, given: Sequence[Any]) -> None:
        command = [sys.executable, str(HERE), "--turns", json.dumps(given)]
        self.child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": str(checkout.resolve() / "src")},
        )  # fmt: skip

    def step(self) -> dict[str, float]:
        """What a step took."""
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        print(file=self.child.stdin, flush=True)
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
    parser.add_argument("--turns", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.turns:
        turns(json.loads(options.turns))
        return
    given = (options.model, options.clients, options.prompts, options.new_tokens)
    checkouts = {"now": HERE.parents[1]} | ({"before": Path(options.before)} if options.before else {})
    sides = {name: Side(path, given) for name, path in checkouts.items()}
    steps = [{name: side.step() for name, side in sides.items()} for _ in range(options.steps + 1)][1:]
    for side in sides.values():
        side.end()
    answers = 4 * options.clients * options.prompts
    print(f"{options.model}, {options.clients} clients, {answers} answers a step, CPU seconds of one thread")
    print(f"{'':14s}" + "".join(f"{name:>12s}" for name in sides))
    for what in ("a step", *PARTS, "peak, MB"):
        medians = [statistics.median(step[name].get(what, 0.0) for step in steps) for name in sides]
        print(f"{what:14s}" + "".join(f"{value:12.1f}" for value in medians))
    if options.before:
        ratio = statistics.median(step["before"]["a step"] / step["now"]["a step"] for step in steps)
        print(f"a step is {ratio:.2f} times as fast as before")


if __name__ == "__main__":
    main()
