"""A Ray cluster of two machines: both are this one, with Ray's own processes twice and GPUs that Ray is told of."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from wavetune.runtimes.flower.launch import free_ports

GPUS = ("0,1", "2,3")
"""Those that each machine says it has."""
_START_S = 120.0
_RAY = """
from wavetune.runtimes.launch import exit_with_parent
exit_with_parent()
from ray.scripts import scripts
scripts.get_ray_client_dependency_error = lambda: "nobody comes as a Ray client, so that no server waits for any"
scripts.main()
"""


@dataclass
class TwoMachines:
    """The processes of a cluster; the first machine is its head."""

    folder: Path
    port: int
    machines: list[subprocess.Popen[bytes]] = field(default_factory=list[subprocess.Popen[bytes]])

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def complete(self) -> None:
        """Start the machines that are not there."""
        for number in range(len(GPUS)):
            if number == len(self.machines):
                self.machines.append(self._start(number))
            elif self.machines[number].poll() is not None:
                self.lose(number)
                self.machines[number] = self._start(number)
            self._await(number)

    def lose(self, number: int) -> None:
        """Switch a machine off."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.machines[number].pid, signal.SIGKILL)
        self.machines[number].communicate()

    def stop(self) -> None:
        """End all processes, the head's last."""
        for number in reversed(range(len(self.machines))):
            self.lose(number)

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        role = [f"--address={self.address}"]
        if number == 0:
            role = [
                "--head", f"--port={self.port}", f"--temp-dir={self.folder}", "--include-dashboard=false",
                "--no-monitor",
            ]  # fmt: skip
        with self._log(number).open("wb") as out:
            return subprocess.Popen(
                [
                    sys.executable, "-c", _RAY, "start", *role, "--block",
                    "--node-ip-address=127.0.0.1", "--num-cpus=2", "--num-gpus=2", "--object-store-memory=80000000",
                    "--min-worker-port=0", "--max-worker-port=0", "--disable-usage-stats",
                    "--include-log-monitor=false",
                ],
                stdin=subprocess.PIPE, stdout=out, stderr=out, start_new_session=True,
                env={**os.environ, "CUDA_VISIBLE_DEVICES": GPUS[number], "RAY_worker_niceness": "0"},
            )  # fmt: skip

    def _await(self, number: int) -> None:
        until = time.monotonic() + _START_S
        while "Ray runtime started" not in (said := self._log(number).read_text(errors="replace")):
            ended = self.machines[number].poll() is not None
            if "timed out" in said or (not ended and time.monotonic() > until):
                pytest.skip("Ray's processes did not come up within the time that they have on this machine")
            assert not ended, said
            time.sleep(0.1)

    def _log(self, number: int) -> Path:
        return self.folder / f"machine-{number}.txt"


@contextmanager
def two_machines() -> Iterator[TwoMachines]:
    """A cluster that ends with the context. Skips without Ray."""
    pytest.importorskip("ray", reason="Ray is not installed")
    # not pytest's folder: paths of sockets have to be short
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        cluster = TwoMachines(Path(folder), free_ports(1)[0])
        try:
            cluster.complete()
            yield cluster
        finally:
            cluster.stop()
