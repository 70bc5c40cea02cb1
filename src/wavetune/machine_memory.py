"""How much memory the machine has and has free, what it cannot hold, and what somebody else's program may take."""

import os
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
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


@contextmanager
def within_memory(most_bytes: int, otherwise: Exception) -> Generator[None]:
    """Raise `otherwise` in this block where the process would take so many bytes more than now.

    On Linux alone and, as the limit is that of all threads, in the main one alone, which prepares what others work on.
    """
    if sys.platform != "linux" or threading.current_thread() is not threading.main_thread():
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = _taken_bytes() + most_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most if soft == resource.RLIM_INFINITY else min(most, soft), hard))
    try:
        yield
    except MemoryError:
        raise otherwise from None
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _taken_bytes() -> int:
    """The process's address space, as asked of the system without a file object: it is asked for every dialogue."""
    descriptor = os.open("/proc/self/statm", os.O_RDONLY)
    try:
        return int(os.read(descriptor, 64).split()[0]) * os.sysconf("SC_PAGE_SIZE")
    finally:
        os.close(descriptor)
