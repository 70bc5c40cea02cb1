"""Commands of wavetune as processes that are forked with everything loaded: they cost no import."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from wavetune.cli import main
from wavetune.runtimes.forked import LOADED


class Forked:
    """A function in a process of its own, with what `subprocess.Popen` offers. Its standard output is a stream."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, environment: Mapping[str, str] | None = None):
        forks = multiprocessing.get_context("forkserver")
        forks.set_forkserver_preload(list(LOADED))
        read, write = forks.Pipe(duplex=False)
        self._folder = tempfile.TemporaryDirectory(prefix="forked-")
        self._said = Path(self._folder.name) / "errors.txt"
        given = (write, self._said, dict(environment or {}), function, arguments)
        self._process = forks.Process(target=_live, args=given, daemon=True)
        with read, write:
            self._process.start()
            self.stdout = os.fdopen(os.dup(read.fileno()), encoding="utf-8")
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self) -> tuple[str, str]:
        """What it still says, and all that it said on standard error, once it has ended."""
        with self.stdout, self._folder:
            said = self.stdout.read()
            self._process.join()
            return said, self._said.read_text(encoding="utf-8")


def wavetune(*arguments: object) -> Forked:
    """`wavetune ARGUMENT...`."""
    return Forked(_command, *map(str, arguments), environment={"COLUMNS": "200"})


def _command(*arguments: str) -> None:
    sys.argv = ["wavetune", *arguments]
    main()


def _live(
    out: Connection, errors: Path, environment: Mapping[str, str], function: Callable[..., Any], arguments: Any
) -> None:
    os.dup2(out.fileno(), 1)
    out.close()
    with errors.open("wb") as file:
        os.dup2(file.fileno(), 2)
    os.environ.update(environment)
    function(*arguments)
