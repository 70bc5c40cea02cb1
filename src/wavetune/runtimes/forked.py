"""Processes that begin with PyTorch and wavetune loaded: forks of one that loaded them and does nothing else.

Ten devices on a machine then import once, and share the memory of what they imported. The process that is forked
computes nothing and opens no connection, as neither OpenMP's threads nor gRPC's survive a fork.
"""

import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.reduction import DupFd
from subprocess import TimeoutExpired
from typing import IO, Any

LOADED = ("wavetune.runtimes.loaded",)
UNSEEN = 255  # the code of a fork whose end nobody saw, as what is forked was killed itself
_START = "forkserver" if sys.platform == "linux" else "spawn"  # macOS's frameworks do not survive a fork


class Fork:
    """`wavetune ARGUMENT...` as a process, with what watching over one needs of `subprocess.Popen`.

    What it says goes to a file, or where this process's output goes. It reads `stdin`, which ends with this process.
    """

    def __init__(self, arguments: Sequence[str], out: IO[bytes] | None, environment: Mapping[str, str]) -> None:
        context = multiprocessing.get_context(_START)
        if _START == "forkserver":
            _begin()
        read, self.stdin = context.Pipe(duplex=False)
        with read:
            given = list(arguments), out and _File(out.fileno()), dict(environment), read
            self._process = context.Process(target=_live, args=given)
            self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The code that it ended with, a signal's as a negative number, or None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """What `returncode` is."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """What `returncode` is at its end. Raises TimeoutExpired."""
        self._process.join(timeout)
        if (code := self.returncode) is None:
            raise TimeoutExpired("wavetune", timeout or 0.0)
        return code

    def terminate(self) -> None:
        """Ask it to end."""
        self._process.terminate()

    def kill(self) -> None:
        """End it."""
        self._process.kill()


def _begin() -> None:
    """Start what is forked, unless it runs; Ctrl-C, which would end it with a traceback as it loads, is not for it."""
    forkserver.set_forkserver_preload(list(LOADED))
    resource_tracker.ensure_running()  # which lets interrupts through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _File:
    """An open file on its way into another process."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __getstate__(self) -> Any:
        return DupFd(self.descriptor)

    def __setstate__(self, sent: Any) -> None:
        self.descriptor = sent.detach()


def _live(arguments: Sequence[str], out: _File | None, environment: Mapping[str, str], read: Connection) -> None:
    os.setsid()  # Ctrl-C reaches the process that watches alone, which stops the others in order
    if _START == "forkserver":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    os.dup2(read.fileno(), 0)
    read.close()
    if out is not None:
        os.dup2(out.descriptor, 1)
        os.dup2(out.descriptor, 2)
        os.close(out.descriptor)
    os.environ.update(environment)
    sys.argv = ["wavetune", *arguments]
    runpy.run_module("wavetune", run_name="__main__")
