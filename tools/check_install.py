"""Builds the wheel, installs it with each extra into an environment of its own, and tries what the extra is for.

    python tools/check_install.py                  # core and every extra: some minutes each, and a package index
    python tools/check_install.py core deploy      # these alone

An environment has the pins of constraints.txt, sees nothing of the checkout, and is removed again.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
SMALL = (
    *("--model", "tiny", "--rounds", "1"),
    *("--set", "run.local_steps=1", "--set", "run.samples=1", "--set", "run.sample_tokens=4"),
    *("--set", "world.data.train_samples=40", "--set", "world.data.validation_samples=8"),
    *("--set", "world.scenario.population.num_clients=2"),
)
FIRST = (
    ("wavetune", "--help"),
    ("wavetune", "plan", "sflllm", "--model", "tiny"),
    ("wavetune", "run", "sflllm", *SMALL, "--out", "run"),
    ("wavetune", "report", "run", "--figures", "figures"),
)
TRIALS = {  # by extra, after FIRST
    "core": (("python", EXAMPLES / "tune_your_rows.py"), ("python", EXAMPLES / "plan_your_cell.py")),
    "deploy": (("python", EXAMPLES / "from_one_process_to_devices.py"),),
    "metrics": (("wavetune", "evaluate", "run", "--metrics", "bleu,nist,rouge_l,cider,chrf,perplexity"),),
    "tensorboard": (("wavetune", "report", "run", "--tensorboard", "scalars"),),
    "mlflow": (("wavetune", "run", "sflllm", *SMALL, "--out", "tracked", "--track", "mlflow"),),
    "wandb": (("env", "WANDB_MODE=offline", "wavetune", "run", "sflllm", *SMALL, "--out", "t", "--track", "wandb"),),
    "trackio": (("wavetune", "run", "sflllm", *SMALL, "--out", "tracked", "--track", "trackio"),),
    "privacy": (("wavetune", "run", "sparse_dp", *SMALL, "--out", "private"),),
    "ray": (("wavetune", "run", "fedavg_lora", *SMALL, "--out", "workers", "--workers", "2"),),
    "flower": (("wavetune", "flower-app", "fedavg_lora", "--out", "app"),),
}


def call(command: tuple[object, ...], folder: Path, programs: Path | None = None) -> None:
    """Run a command in a folder, with the programs of an environment; SystemExit with its last lines if it fails."""
    environment = {"PATH": f"{programs}:/usr/bin:/bin", "HOME": str(folder)} if programs else None
    done = subprocess.run(list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{(done.stdout + done.stderr)[-3000:]}")


def build(folder: Path) -> Path:
    """The wheel of this checkout."""
    call((sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", folder, ROOT), folder)
    return next(folder.glob("*.whl"))


def check(extra: str, wheel: Path) -> None:
    """Install the wheel with an extra into a new environment, and run what it is for."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        call((sys.executable, "-m", "venv", folder / "environment"), folder)
        programs = folder / "environment" / "bin"
        wanted = f"wavetune[{extra}] @ {wheel.as_uri()}" if extra != "core" else str(wheel)
        call((programs / "python", "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", wanted), folder)
        for command in (*FIRST, *TRIALS[extra]):
            call(command, folder, programs)


def main(extras: list[str]) -> None:
    """Check the wheel with these extras, or with all."""
    unknown = [extra for extra in extras if extra not in TRIALS]
    if unknown:
        raise SystemExit(f"no extra {unknown[0]!r}; choose among {', '.join(TRIALS)}")
    with tempfile.TemporaryDirectory() as folder:
        wheel = build(Path(folder))
        for extra in extras or TRIALS:
            began = time.monotonic()
            check(extra, wheel)
            print(f"{extra}: installed and tried in {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
