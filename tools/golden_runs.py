"""Small runs by two checkouts on one machine, compared to the last bit: [--before HEAD~1] [--only NAME]...

Before is a commit, laid out by `git worktree`; after is this checkout as it stands. Each plays its own list of runs
(GOLDEN below) in one process; compared are the round records without what a clock says, the adapters and what alignment
wrote. Nothing is kept as a reference, since last bits differ between processors. Exit status 1: something differs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
CLOCK = {"wall_s", "tokens_per_s", "peak_memory_bytes", "measured"}

FEW = ("world.data.max_tokens=96", "world.data.validation_samples=4", "run.samples=0", "run.evaluate_every=2")
EXACT = ("method.adapter_codec.kind=fp64", "run.precision=fp64")
OUTAGE = (
    "method.planner.kind=all_random",
    "method.link.kind=outage",
    "method.link.min_rate_bit_per_s=2e7",
    "method.link.loss_probability=0.5",
    "method.link.lost=reuse",
)
INT8 = ("method.activation_codec.kind=int8", "method.gradient_codec.kind=int8")
TWO = ("method.selection.kind=fastest", "method.selection.count=2")
MIXED = ("method.topology.cut=[1,4,2]", "method.lora.rank=[2,8,1]")
SPARSE = ("method.adapter_codec.kind=top_k", "method.proximal=0.1")
ALIGNED = ("ALIGNED",)  # what tests/helpers/runs.py makes small
PERSONAL = ("method.bottleneck.width=4", 'method.sharing.shared=["bottleneck"]')
# by name: the recipe, whether clients are devices (threads here, streams between), and its settings
GOLDEN: dict[str, tuple[str, bool, tuple[str, ...]]] = {
    "split": ("sflllm", False, ()),
    "u_shape_mixed_int8": (
        "sflllm",
        False,
        (*MIXED, *INT8, "method.topology.labels=client", 'world.model="tiny-gpt2"'),
    ),
    "sequential_product": ("split_lora_sequential", False, ("method.mixing.kind=average_product",)),
    "frozen_a_bf16": ("sflllm", False, ("method.mixing.kind=frozen_a", "method.adapter_codec.kind=bf16", *MIXED)),
    "uncut_sparse": ("fedavg_lora", False, (*SPARSE, "method.lora.rank=[2,8,4]")),
    "outage": ("sflllm", False, (*OUTAGE, *MIXED)),
    "central": ("centralised_lora", False, ()),
    "energy_queues": ("cre", False, ("method.selection.budget_j=0.004", "method.planner.round_deadline_s=1.0")),
    "private": (
        "fedavg_lora",
        False,
        ("method.privacy.clip_norm=0.05", "method.privacy.noise_multiplier=0.5", *TWO),
    ),
    "clipped_frozen_a": (
        "fedavg_lora",
        False,
        ("method.privacy.clip_norm=0.05", "method.privacy.noise_multiplier=0", "method.mixing.kind=frozen_a"),
    ),
    "trimmed_mean_screened": (
        "sflllm",
        False,
        (
            "method.mixing.kind=trimmed_mean",
            "method.mixing.fraction=0.4",
            "method.screening.max_norm_ratio=1.01",
            *MIXED,
        ),
    ),
    "multi_krum": ("fedavg_lora", False, ('method.mixing={"kind": "multi_krum", "malicious": 0, "keep": 2}',)),
    "personal_classes": (
        "pwff_task",
        False,
        ('world.model="tiny-bert"', *PERSONAL, "world.scenario.population.num_clients=3"),
    ),
    "alignment": ("pwff", False, ALIGNED),
    "deployed_alignment": ("pwff", True, ALIGNED),
    "deployed_split": ("sflllm", True, (*MIXED, *EXACT)),
    "deployed_u_shape_outage": ("sflllm", True, (*OUTAGE, "method.topology.labels=client")),
    "deployed_uncut_sparse": ("fedavg_lora", True, (*SPARSE, *TWO)),
    "deployed_personal": ("fedavg_lora", True, (*PERSONAL, *OUTAGE)),
}


def main() -> None:
    """Compare, or play what a comparison asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--before", default="HEAD~1", help="the commit to compare with")
    parser.add_argument("--only", action="append", choices=GOLDEN, help="runs to compare (all, if none is named)")
    parser.add_argument("--play", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    names = given.only or list(GOLDEN)
    if given.play is not None:
        play(names, given.play)
        return
    with tempfile.TemporaryDirectory(prefix="golden-") as folder:
        sys.exit(1 if any(compare(given.before, names, Path(folder)).values()) else 0)


def compare(before: str, names: Sequence[str], folder: Path) -> dict[str, str]:
    """What differs in each run (empty: nothing), also printed as a table."""
    with worktree(before, folder / "checkout") as checkout:
        for what, root in (("before", checkout), ("after", HERE)):
            _played_by(root, names, folder / what)
    found: dict[str, str] = {}
    for name in names:
        one, other = (folder / what / name for what in ("before", "after"))
        if not one.exists():
            print(f"{name:<26}new: {before} has no such run")
            continue
        found[name] = difference(contents(one), contents(other))
        print(f"{name:<26}{found[name] or 'same'}")
    return found


@contextmanager
def worktree(commit: str, folder: Path) -> Iterator[Path]:
    """A commit laid out in a folder for as long as it is needed."""
    subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(folder), commit], cwd=HERE, check=True)
    try:
        yield folder
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", str(folder)], cwd=HERE, check=True)


def _played_by(root: Path, names: Sequence[str], out: Path) -> None:
    own = root / "tools" / "golden_runs.py"
    listed = own.exists() and set(names) <= set(_names_of(own))
    tool = own if listed else Path(__file__)
    paths = os.pathsep.join(str(root / part) for part in ("src", "tests"))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    only = [word for name in names for word in ("--only", name)]
    subprocess.run([sys.executable, str(tool), "--play", str(out), *only], env=environment, check=True)


def _names_of(tool: Path) -> list[str]:
    listed = "import golden_runs; print(*golden_runs.GOLDEN)"
    environment = {**os.environ, "PYTHONPATH": str(tool.parent)}
    found = subprocess.run([sys.executable, "-c", listed], env=environment, check=True, capture_output=True, text=True)
    return found.stdout.split()


def play(names: Sequence[str], out: Path) -> None:
    """Run these in this process, each into a folder of its name."""
    with suppress(ImportError):  # a commit from before there was such a thing
        from wavetune.models import light_imports

        light_imports.install()
    from helpers import runs
    from helpers.deployment import run_deployed
    from helpers.runs import Silent, small, train

    out.mkdir(parents=True)
    for name in names:
        recipe, on_devices, settings = GOLDEN[name]
        wanted = small(recipe, *FEW, *(runs.ALIGNED if settings is ALIGNED else settings))
        if on_devices:
            run_deployed(wanted, out / name, out / "certificates", Silent())
        else:
            train(wanted, out / name)


def contents(folder: Path) -> dict[str, Any]:
    """What is compared of a run, by file: tensors as bytes, records as values."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".safetensors" and name.startswith("adapters"):
            found[name] = path.read_bytes()
        elif name in ("rounds.jsonl", "alignment.jsonl"):
            lines = path.read_text(encoding="utf-8").splitlines()
            found[name] = [{k: v for k, v in json.loads(line).items() if k not in CLOCK} for line in lines]
        elif name in ("alignment_before.json", "alignment_after.json"):
            found[name] = json.loads(path.read_text(encoding="utf-8"))
    return found


def difference(one: Any, other: Any, path: str = "") -> str:
    """The first place where two values differ, and how; empty where they are the same."""
    if type(one) is type(other) and isinstance(one, dict | list):
        if isinstance(one, dict):
            missing = [f"{path}.{name} is only {'before' if name in one else 'after'}" for name in one.keys() ^ other]
            pairs = [(f"{path}.{name}".lstrip("."), one[name], other[name]) for name in one if name in other]
        else:
            missing = [f"{path} has {len(one)} entries before and {len(other)} after"] * (len(one) != len(other))
            pairs = [(f"{path}[{i}]", a, b) for i, (a, b) in enumerate(zip(one, other, strict=False))]
        return next(filter(None, [*sorted(missing), *(difference(a, b, where) for where, a, b in pairs)]), "")
    if one == other or (one != one and other != other):
        return ""
    return f"{path} differs" if isinstance(one, bytes) else f"{path} was {one!r} and is {other!r}"


if __name__ == "__main__":
    main()
