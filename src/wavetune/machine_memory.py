"""How much memory the machine has and has free, what it cannot hold, and what somebody else's program may take."""

import os
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from wavetune.errors import ConfigError

_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")
_FREE, _TAKEN = Path("/proc/meminfo"), Path("/proc/self/statm")
_LIMITED = threading.RLock()  # the limit is the process's


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


@contextmanager
def within_memory(most_bytes: int, otherwise: Exception) -> Generator[None]:
    """Raise `otherwise` in this block where the process would take so many bytes more than now; on Linux alone."""
    import resource

    with _LIMITED:
        try:
            taken = int(_TAKEN.read_text(encoding="ascii").split()[0]) * os.sysconf("SC_PAGE_SIZE")
        except OSError:
            yield
            return
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        own = min(taken + most_bytes, *(limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY), 2**62)
        resource.setrlimit(resource.RLIMIT_AS, (own, hard))
        try:
            yield
        except MemoryError:
            raise otherwise from None
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
