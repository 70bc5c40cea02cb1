"""How much memory the machine has and has free, and what it cannot hold."""

import os
from pathlib import Path

from wavetune.errors import ConfigError

_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")
_FREE = Path("/proc/meminfo")


def memory_bytes() -> int:
    """The machine's memory, or as much as a container may have of it (a control group of version 2)."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = _CONTAINER_LIMIT.read_text(encoding="ascii").strip()
    except OSError:
        return physical
    return min(physical, int(limit)) if limit.isdecimal() else physical


def free_bytes() -> int:
    """Memory that is free for new processes, as Linux says; where it says nothing, all that the machine has."""
    try:
        with open(_FREE, encoding="ascii") as file:
            found = dict(line.split(":", 1) for line in file)
        return min(int(found["MemAvailable"].split()[0]) * 1024, memory_bytes())
    except (OSError, KeyError, ValueError):
        return memory_bytes()


def require_memory(needed_bytes: int, what: str) -> None:
    """Raise ConfigError for what the machine's memory could not hold if it held nothing else."""
    if needed_bytes > memory_bytes():
        raise ConfigError(
            f"{what} take {needed_bytes / 1e9:.3g} GB, and this machine has {memory_bytes() / 1e9:.3g} GB"
        )
