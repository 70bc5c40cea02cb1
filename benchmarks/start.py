"""What a command costs before it does what it is for: CPU seconds, and memory at the peak, of whole processes.

    python benchmarks/start.py [--repeats 5] [--before CHECKOUT] [--only help]

- help: `wavetune --help`
- plan: `wavetune plan sflllm`, with its kernels compiled and its data counted before
- opened: what a device does until it can train a tiny model: imports, and the model on its adapters
- step: `wavetune run sflllm` until its first training step begins
With `--before`, another checkout of this repository (`git worktree add CHECKOUT COMMIT`) takes turns. Each is run once
unmeasured, which fills the caches, those of compiled sources too, even where the environment would not keep these.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

OPENED = """
from wavetune.models import light_imports
light_imports.install()
import wavetune.runtimes.device
from wavetune.models.backbone import load_backbone
from wavetune.models.resolve import resolve_model
load_backbone(resolve_model("tiny").folder, ["q_proj", "v_proj"])
"""
STEP = """
import os, runpy, shutil, sys, tempfile
from wavetune.models import light_imports
light_imports.install()
from wavetune.federation.cohort import Cohort
out = tempfile.mkdtemp()
def begins(*_):
    shutil.rmtree(out)
    os._exit(0)
Cohort.step_on = begins
sys.argv, sys.stderr = ["wavetune", "run", "sflllm", "--out", out + "/run"], open(os.devnull, "w")
runpy.run_module("wavetune", run_name="__main__")
"""
COMMANDS = {
    "help": ["-m", "wavetune", "--help"],
    "plan": ["-m", "wavetune", "plan", "sflllm"],
    "opened": ["-c", OPENED],
    "step": ["-c", STEP],
}
OWN = Path(__file__).resolve().parents[1]


def spent(command: Sequence[str], root: Path) -> tuple[float, float]:
    """CPU seconds and peak megabytes of a process that runs a checkout. Raises CalledProcessError if it fails."""
    usual = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    child = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.DEVNULL, env=usual | {"PYTHONPATH": str(root / "src")}
    )
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, list(command))
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--before", metavar="CHECKOUT", type=Path)
    parser.add_argument("--only", choices=COMMANDS)
    options = parser.parse_args(arguments)
    roots = {"now": OWN} | ({"before": options.before.resolve()} if options.before else {})
    print(f"{'':10s}{'':8s}{'CPU s':>8s}{'least':>8s}{'MB':>8s}   of {options.repeats}")
    for name in [options.only] if options.only else COMMANDS:
        found: dict[str, list[tuple[float, float]]] = {which: [] for which in roots}
        for repeat in range(options.repeats + 1):
            for which, root in roots.items():
                one = spent(COMMANDS[name], root)
                found[which] += [one] if repeat else []
        for which, measured in found.items():
            seconds, peaks = zip(*measured, strict=True)
            middle = statistics.median(seconds)
            print(f"{name:10s}{which:8s}{middle:8.2f}{min(seconds):8.2f}{statistics.median(peaks):8.0f}")


if __name__ == "__main__":
    main()
