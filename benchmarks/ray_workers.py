"""Seconds of a round in one process and in Ray workers, in one run: medians of rounds that take turns.

    python benchmarks/ray_workers.py [sflllm] [--workers 2] [--rounds 8] [--set world.model=tiny]

Both train the recipe's rounds from the same start, without evaluations and checkpoints. The first round of each is not
counted. One process uses torch's own number of threads; each worker its share of the CPU cores, or a GPU.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence

import torch

from wavetune import recipes
from wavetune.recipe import with_settings
from wavetune.runtimes.engine import TrainRound
from wavetune.runtimes.ray_engine import engine
from wavetune.runtimes.round import train_round
from wavetune.runtimes.session import Infeasible, Session, build


def timed(train: TrainRound, session: Session, index: int) -> float:
    """Seconds of a round."""
    started = time.perf_counter()
    train(session, index, lambda *_: None, None)
    return time.perf_counter() - started


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="sflllm")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", dest="settings")
    chosen = parser.parse_args(arguments)
    recipe = with_settings(recipes.get(chosen.recipe), [*chosen.settings, f"run.rounds={chosen.rounds + 1}"])
    alone, spread = build(recipe), build(recipe)
    if isinstance(alone, Infeasible) or isinstance(spread, Infeasible):
        sys.exit("the recipe has no plan")
    print(f"one process: {torch.get_num_threads()} threads, {alone.cohort.backbone.device}")
    seconds: dict[str, list[float]] = {"one process": [], f"{chosen.workers} workers": []}
    with engine(chosen.workers)(spread, print) as workers:
        for index in range(chosen.rounds + 1):
            found = timed(train_round, alone, index), timed(workers.train_round, spread, index)
            for name, value in zip(seconds, found, strict=True):
                seconds[name] += [value] if index else []
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, values in seconds.items():
        print(f"{name}: median {medians[name]:.3f} s a round (least {min(values):.3f}, most {max(values):.3f})")
    first, second = medians.values()
    print(f"ratio: {first / second:.2f}")


if __name__ == "__main__":
    main()
