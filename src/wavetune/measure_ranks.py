"""Rounds to a target loss at each rank, measured by training: the table E(r) that the planner reads."""

import gc
import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from wavetune.console import given_command
from wavetune.errors import ConfigError
from wavetune.federation.run_folder import ELSEWHERE, write_whole
from wavetune.json_reader import complete_lines
from wavetune.logs import LOG
from wavetune.part_values import values_of
from wavetune.recipe import Recipe
from wavetune.records.rounds import Round
from wavetune.runtimes.inprocess import run
from wavetune.runtimes.provenance import versions
from wavetune.runtimes.session import Infeasible
from wavetune.terminal import RunDisplay


def measure(recipe: Recipe, ranks: Sequence[int], target_loss: float | None, seeds: int, kept: Path) -> dict[str, Any]:
    """Train at each rank and seed, evaluating every round; returns the table with the curves behind it.

    E(r) is the number of rounds after which validation loss first meets the target, linear between rounds, averaged
    over the seeds. Without a target it is, seed by seed, the least loss that every rank reached: the batches and
    channels of a seed are the same for all ranks. Finished runs are kept in the file `kept`, so that a measurement
    that was stopped goes on where it was.
    """
    curves: dict[int, list[list[float]]] = {rank: [] for rank in ranks}
    for seed in range(recipe.run.seed, recipe.run.seed + seeds):
        for rank, own in curves.items():
            LOG.info(f"rank {rank}, seed {seed}")
            at_rank = replace(recipe, method=replace(recipe.method, lora=replace(recipe.method.lora, rank=rank)))
            own.append(loss_curve(at_rank, seed, kept))
    reached = reached_by_all(list(curves.values()))
    if target_loss is not None and target_loss < max(reached):
        raise ConfigError(
            f"--target-loss {target_loss:g} was not reached at every rank (the highest best loss is "
            f"{max(reached):.4f}); raise it, or train longer with --set run.rounds=N"
        )
    targets = reached if target_loss is None else [target_loss] * seeds
    rounds = {str(rank): list(map(rounds_to, own, targets)) for rank, own in curves.items()}
    return {
        "rounds_to_target": {rank: fmean(own) for rank, own in rounds.items()},
        "rounds_to_target_by_seed": rounds,
        "target_loss_by_seed": targets,
        **origin(recipe, seeds),
        "validation_loss_by_round": {str(r): own for r, own in curves.items()},
    }


def origin(recipe: Recipe, seeds: int) -> dict[str, Any]:
    """Where a measured table is from."""
    return {
        "model": recipe.world.model,
        "data": recipe.world.data.source,
        "seeds": [recipe.run.seed + offset for offset in range(seeds)],
        "command": given_command(),
        "versions": versions(),
    }


def loss_curve(recipe: Recipe, seed: int, kept: Path) -> list[float]:
    """Validation loss before training and after each round; a run that `kept`, JSON lines, has is not made again."""
    recipe = replace(recipe, run=replace(recipe.run, seed=seed, evaluate_every=1, samples=0))
    about = json.loads(json.dumps({"recipe": values_of(recipe), "wavetune": versions()["wavetune"]}))
    known = complete_lines(kept) if kept.exists() else []
    for line in known:
        if line["about"] == about:
            LOG.info("  made before")
            return line["validation_loss"]
    losses = _trained(recipe)
    known.append({"about": about, "validation_loss": losses})
    write_whole(kept, "".join(json.dumps(line) + "\n" for line in known), ELSEWHERE)
    return losses


def _trained(recipe: Recipe) -> list[float]:
    losses: list[float] = []

    class Watch(RunDisplay):
        def message(self, text: str) -> None:
            """Keep the terminal to one line a run."""

        def round(self, record: Round) -> None:
            super().round(record)
            losses.append(record.validation_loss)

    with tempfile.TemporaryDirectory() as folder, Watch() as watch:
        outcome = run(recipe, Path(folder) / "run", watch)
        if isinstance(outcome, Infeasible):
            raise ConfigError(f"no plan exists: {outcome.reason}")
        losses.insert(0, watch.before)
    gc.collect()  # the model and its hooks refer to each other
    LOG.info(f"  validation loss {losses[0]:.4f} before, {min(losses):.4f} at best")
    return losses


def reached_by_all(curves: Sequence[Sequence[Sequence[float]]]) -> list[float]:
    """For each seed the least loss that every contender reached; a contender's curves are one a seed.

    >>> reached_by_all([[[3.0, 1.0], [3.0, 2.0]], [[3.0, 1.5], [3.0, 1.0]]])
    [1.5, 2.0]
    """
    return [max(min(curve) for curve in of_seed) for of_seed in zip(*curves, strict=True)]


def rounds_to(curve: Sequence[float], target: float) -> float:
    """Rounds until a curve (its first value before training) first meets the target, linear between rounds.

    A curve that meets it from the start takes one round, as no plan is for none.

    >>> rounds_to([3.0, 2.0, 1.0], 1.5)
    1.5
    """
    if curve[0] <= target:
        return 1.0
    for rounds, (before, after) in enumerate(pairwise(curve)):
        if after <= target:
            return rounds + (before - target) / (before - after)
    return math.inf
