"""What computed a run: versions of the libraries, the source's commit, the machine."""

import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

import wavetune
from wavetune.workers import cores

_PACKAGE = Path(wavetune.__file__).parent
_GIT_S = 5.0
_version = cache(version)


def versions() -> dict[str, str]:
    """Versions of what computes here."""
    import numpy

    return {
        "wavetune": wavetune.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": _version("transformers"),
        "peft": _version("peft"),
        "numpy": numpy.__version__,
    }


def hardware(device: torch.device) -> str:
    """Processor, cores that this process may use and, where it computes there, the GPU; no name of the machine."""
    count = cores()
    words = f"{_processor()}, {count} core{'' if count == 1 else 's'}"
    return f"{torch.cuda.get_device_name(device)}; {words}" if device.type == "cuda" else words


def now() -> str:
    """The time, in seconds and UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@cache
def commit() -> str | None:
    """The commit of wavetune's own source, `-dirty` where it was changed; None where it is not from a checkout."""
    try:
        _git("ls-files", "--error-unmatch", "__init__.py")
        return _git("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*").strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(_PACKAGE), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=_GIT_S).stdout


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()
