"""Random kills of a deployed run's processes: how many runs end with the model they should end with.

    python benchmarks/faults.py [--runs 100] [--devices 2] [--seed 0]

Every run deploys a tiny recipe and kills one party, the servers or a device, at a random moment with SIGKILL; it is
started again and goes on. A run survives if it ends by itself and its global adapter is the right one: that of the run
in one process if no record names a lost device, else that of the run in one process without the lost contributions
where a device was lost before its first step. Of a device lost later in a round the run is checked to end finite.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from wavetune import recipes
from wavetune.recipe import Recipe, with_settings
from wavetune.runtimes.launch import Party, deploy
from wavetune.runtimes.round import prepare, train_round
from wavetune.runtimes.session import Session, build

TOLERANCE = 1e-5
SETTINGS = ['world.model="tiny"', "world.data.train_samples=60", "world.data.validation_samples=8", "run.rounds=6",
            "world.data.max_tokens=96", "world.data.batching.batch_size=2", "run.local_steps=2", "run.samples=0",
            "method.topology.cut=2", "method.lora.rank=2", "run.precision=fp32", "run.device=cpu"]  # fmt: skip


def without(recipe: Recipe, absent: dict[int, set[int]]) -> dict[str, torch.Tensor]:
    """B factors of the global adapter of a run in one process from which some devices are absent in some rounds."""
    session = build(recipe)
    assert isinstance(session, Session), session.reason
    devices, outcome = range(session.cohort.placement.num_clients), None
    for index in range(recipe.run.rounds):
        ready = prepare(session, index).among([k not in absent.get(index, set()) for k in devices])
        outcome = train_round(session, index, lambda *_: None, None, ready)
    assert outcome is not None
    return {name: pair["B"].detach() for name, pair in outcome.mixed.factors.items()}


def found_in(folder: Path) -> dict[str, torch.Tensor]:
    """The same of a run folder."""
    tensors = load_file(folder / "adapters" / "global" / "adapter_model.safetensors")
    ours = {name.removeprefix("base_model.model."): t.t() for name, t in tensors.items()}
    return {n.removesuffix(".lora_B.weight"): t for n, t in ours.items() if n.endswith(".lora_B.weight")}


def one_run(recipe: Recipe, devices: int, rng: random.Random) -> tuple[str, bool]:
    """What was killed in one run, and whether it survived."""
    folder, victim, killed = Path(tempfile.mkdtemp()) / "run", rng.randrange(devices + 1), list[float]()
    delay_s = rng.uniform(0.0, 3.0)
    started: list[float] = []

    def watch(parties: list[Party]) -> None:
        if not started and (folder / "state.json").exists():
            started.append(time.monotonic())
        if started and not killed and time.monotonic() > started[0] + delay_s:
            party = parties[victim]
            if party.process.poll() is None:
                os.kill(party.process.pid, signal.SIGKILL)
            killed.append(delay_s)

    code = deploy(recipe, folder, devices, ["--deadline", "60"], lambda _text: None, watch)
    what = f"{'the servers' if victim == 0 else f'device {victim - 1}'} after {delay_s:.2f} s"
    if code != 0:
        return f"{what}: ended with code {code}", False
    records = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    verdict, right = judge(recipe, records, found_in(folder))
    shutil.rmtree(folder.parent)
    return f"{what if killed else 'nobody'}: {verdict}", right and len(records) == recipe.run.rounds


def judge(recipe: Recipe, records: list[dict[str, Any]], found: dict[str, torch.Tensor]) -> tuple[str, bool]:
    """Whether a run's adapter is the right one, and what it was held against."""
    absent = {r["round"]: {k for k, on in enumerate(r["active_K"]) if not on} for r in records}
    between = [r["round"] for r in records if any(r["active_K"][lost["client"]] for lost in r["lost"])]
    if between:
        return f"device lost within round {between[0]}", all(t.isfinite().all() for t in found.values())
    wanted = without(recipe, absent)
    worst = max(float((found[name] - value).abs().max()) for name, value in wanted.items())
    rounds = [index for index, gone in absent.items() if gone]
    return f"sat out rounds {rounds}, off by {worst:.1e}" if rounds else f"off by {worst:.1e}", worst <= TOLERANCE


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    cell = f"world.scenario.population.num_clients={options.devices}"
    recipe = with_settings(recipes.get("sflllm"), [*SETTINGS, cell])
    rng, survived = random.Random(options.seed), 0
    for number in range(1, options.runs + 1):
        sentence, right = one_run(recipe, options.devices, rng)
        survived += right
        print(f"{number}: {'right' if right else 'WRONG'}  {sentence}", flush=True)
    print(f"{survived} of {options.runs} runs ended with the right model")


if __name__ == "__main__":
    main()
