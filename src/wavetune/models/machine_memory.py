"""How much memory the machine has, and what it cannot hold."""

import os
from pathlib import Path

from wavetune.errors import ConfigError

_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")


def memory_bytes() -> int:
    """The machine's memory, or as much as a container may have of it (a control group of version 2)."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = _CONTAINER_LIMIT.read_text(encoding="ascii").strip()
    except OSError:
        return physical
    return min(physical, int(limit)) if limit.isdecimal() else physical


def require_memory(needed_bytes: int, what: str) -> None:
    """Raise ConfigError for what the machine's memory could not hold if it held nothing else."""
    if needed_bytes > memory_bytes():
        raise ConfigError(
            f"{what} take {needed_bytes / 1e9:.3g} GB, and this machine has {memory_bytes() / 1e9:.3g} GB"
        )
