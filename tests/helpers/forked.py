"""Commands of wavetune as processes that are forked with everything loaded: they cost no import."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any, TextIO

from wavetune.cli import main
from wavetune.runtimes import forked


class Forked:
    """A function in a process of its own, with what `subprocess.Popen` offers; its outputs are streams."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        forks = multiprocessing.get_context("forkserver")
        forks.set_forkserver_preload(list(forked.LOADED))
        (out, out_end), (err, err_end) = forks.Pipe(duplex=False), forks.Pipe(duplex=False)
        self._process = forks.Process(target=_live, args=(out_end, err_end, function, arguments), daemon=True)
        with out, out_end, err, err_end:
            self._process.start()
            self.stdout, self.stderr = text(out), text(err)
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def communicate(self) -> tuple[str, str]:
        """What it still says on both streams, once it has ended."""
        with self.stdout, self.stderr, ThreadPoolExecutor(1) as aside:
            errors = aside.submit(self.stderr.read)
            said = self.stdout.read()
            self._process.join()
            return said, errors.result()


def wavetune(*arguments: object) -> Forked:
    """`wavetune ARGUMENT...`."""
    return Forked(_command, *map(str, arguments))


def text(pipe: Connection) -> TextIO:
    return os.fdopen(os.dup(pipe.fileno()), encoding="utf-8")


def _command(*arguments: str) -> None:
    os.environ["COLUMNS"] = "200"
    sys.argv = ["wavetune", *arguments]
    main()


def _live(out: Connection, err: Connection, function: Callable[..., Any], arguments: Any) -> None:
    for pipe, number in ((out, 1), (err, 2)):
        os.dup2(pipe.fileno(), number)
        pipe.close()
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, encoding="utf-8", closefd=False) for number in (1, 2))  # noqa: SIM115
    function(*arguments)
