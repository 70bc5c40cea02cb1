"""Deployed runs whose devices are threads of this process: real streams over loopback, no processes to start."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from wavetune.data_plane.certificates import device_name, read_identity, write_certificates
from wavetune.errors import DeploymentError
from wavetune.recipe import Recipe
from wavetune.runtimes import device
from wavetune.runtimes.deployed import Deployment, Servers, engine, opened
from wavetune.runtimes.device import take_part
from wavetune.runtimes.device_permission import Allowed
from wavetune.runtimes.inprocess import run
from wavetune.runtimes.outcome import RoundOutcome
from wavetune.runtimes.session import Session, build

NUM_DEVICES = 3


def nothing(*_: Any) -> None:
    pass


@contextmanager
def deployed(
    recipe: Recipe,
    folder: Path,
    deadline_s: float = 60.0,
    emulate: bool = False,
    allowed: Mapping[int, Allowed] | None = None,
    say: Callable[[str], None] = nothing,
) -> Iterator[Servers]:
    """The servers of a recipe, with its three devices attending."""
    if not folder.exists():
        write_certificates(folder, NUM_DEVICES)
    session = build(recipe)
    assert isinstance(session, Session)
    threads = []
    deployment = Deployment("127.0.0.1:0", read_identity(folder / "server"), None, 60.0, deadline_s, emulate)
    with opened(session, deployment, "a run", nothing) as servers:
        for client in range(NUM_DEVICES):
            identity = read_identity(folder / device_name(client))
            arguments = (servers.address, identity, None, 30.0, say, (allowed or {}).get(client))
            threads.append(threading.Thread(target=take_part, args=arguments))
            threads[-1].start()
        yield servers
    for thread in threads:
        thread.join(30.0)
        assert not thread.is_alive()


def play(servers: Servers, rounds: int, before_mixing: Callable[[], None] | None = None) -> list[RoundOutcome]:
    """Rounds of a deployed run."""
    outcomes = list[RoundOutcome]()
    for index in range(rounds):
        outcomes.append(servers.train_round(servers.session, index, nothing, before_mixing))
        servers.session.settle(outcomes[-1].record())
    return outcomes


class _GoneForGoodError(Exception):
    """Nobody is waited for any more: devices that servers took wait out all else."""


def run_deployed(
    recipe: Recipe,
    out: Path,
    certificates: Path,
    observer: Any,
    resume: bool = False,
    allowed: Allowed | None = None,
) -> None:
    """A whole run whose devices keep their states in `out/devices`; they give up as soon as it is interrupted."""
    if not certificates.exists():
        write_certificates(certificates, NUM_DEVICES)
    port, over, diagnose = certificates / f"port-of-{out.name}-{resume}", threading.Event(), device.diagnose

    def attend(client: int) -> None:
        while not (port.exists() or over.is_set()):
            time.sleep(0.02)
        if not port.exists():
            return
        name, address = device_name(client), f"127.0.0.1:{port.read_text()}"
        with suppress(DeploymentError, _GoneForGoodError):
            take_part(address, read_identity(certificates / name), out / "devices" / name, 300.0, nothing, allowed)

    def look(*where: Any) -> None:
        diagnose(*where)
        if over.is_set():
            raise _GoneForGoodError

    threads = [threading.Thread(target=attend, args=(client,)) for client in range(NUM_DEVICES)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "diagnose", look)
        for thread in threads:
            thread.start()
        try:
            deployment = Deployment("127.0.0.1:0", read_identity(certificates / "server"))
            run(recipe, out, observer, resume, engine(deployment, out, port))
        finally:
            over.set()
            for thread in threads:
                thread.join()
