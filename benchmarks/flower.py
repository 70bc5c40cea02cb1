"""Seconds that a round takes from its first order to the next one's, by what carries orders and reports.

    python benchmarks/flower.py [--rounds 8] [--devices 2] [--recipe sflllm]

Runs a tiny recipe twice with all its processes on this machine, over our control stream and over Flower, and reads from
the growing record when each round was done. The training of a round takes a fraction of a second in both: what
differs is the way of a message, and that Flower starts a process for each.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from wavetune import recipes
from wavetune.recipe import Recipe, with_settings
from wavetune.runtimes import launch
from wavetune.runtimes.flower import launch as flower

SETTINGS = ['world.model="tiny"', "world.data.train_samples=60", "world.data.validation_samples=8",
            "world.data.max_tokens=96", "world.data.batching.batch_size=2", "run.local_steps=2", "run.samples=0",
            "run.evaluate_every=1000", "run.precision=fp32", "run.device=cpu"]  # fmt: skip


def seconds_between_rounds(deploy: Callable[..., int], recipe: Recipe, devices: int, options: Any) -> list[float]:
    """When each round but the first was done after the one before it."""
    done: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"

        def watch(_parties: list[launch.Party]) -> None:
            records = out / "rounds.jsonl"
            if records.exists() and records.read_text(encoding="utf-8").count("\n") > len(done):
                done.append(time.perf_counter())

        if deploy(recipe, out, devices, options, print, watch):
            raise SystemExit("the run failed")
    return [after - before for before, after in pairwise(done)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Time both and print one line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--recipe", default="sflllm")
    asked = parser.parse_args(arguments)
    wanted = [*SETTINGS, f"run.rounds={asked.rounds}", f"world.scenario.population.num_clients={asked.devices}"]
    recipe = with_settings(recipes.get(asked.recipe), wanted)
    for name, deploy, options in (("control stream", launch.deploy, []), ("Flower", flower.deploy, {})):
        seconds = seconds_between_rounds(deploy, recipe, asked.devices, options)
        print(f"{name}: {statistics.median(seconds):.2f} s a round, between {min(seconds):.2f} and {max(seconds):.2f}")


if __name__ == "__main__":
    main()
