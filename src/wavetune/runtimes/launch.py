"""All parties of a deployed run as processes of this machine: the servers, N devices, and who watches over them.

A party that dies is started again and goes on from what it saved. All end when the run does, when this process is
stopped, and when it is killed: each watches a pipe that only this process holds open.
"""

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO

from wavetune.console import COMMAND, given_command
from wavetune.data_plane.certificates import SERVER, device_name, write_certificates
from wavetune.errors import DeploymentError
from wavetune.federation.run_folder import explained
from wavetune.recipe import Recipe, load, save
from wavetune.runtimes.device_permission import options_of
from wavetune.runtimes.forked import UNSEEN, Fork
from wavetune.workers import once_parent_is_gone

RESTARTS = 5
_POLL_S, _STOP_S = 0.1, 10.0


@dataclass
class Party:
    """One process, and how to start it again; without a command of its own it is `wavetune`."""

    name: str
    arguments: Sequence[str]
    log: Path | None
    command: Sequence[str] | None = None
    process: subprocess.Popen[bytes] | Fork = field(init=False)
    starts: int = 0

    def start(self) -> None:
        """Start the process; what a device says goes into its log."""
        self.starts += 1
        if self.starts > 1:
            self._close()
        arguments, environment = [*self.arguments, "--with-parent"], {**os.environ, COMMAND: given_command()}
        with contextlib.ExitStack() as stack:
            out: IO[bytes] | None = None
            if self.log is not None:
                out = stack.enter_context(open(self.log, "ab", opener=partial(os.open, mode=0o600)))
            if self.command is None:
                self.process = Fork(arguments, out, environment)
                return
            self.process = subprocess.Popen(
                [*self.command, *arguments],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=out and subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches us alone, and we stop the others in order
            )

    def stop(self) -> None:
        """Ask the process to end, then make it."""
        if self.process.poll() is None:
            self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_STOP_S)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._close()

    def _close(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        if self.command is not None:  # some other program, which can leave processes of its own
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)


def deploy(
    recipe: Recipe | None,
    out: Path,
    num_devices: int,
    options: Sequence[str],
    say: Callable[[str], None],
    watch: Callable[[list[Party]], None] = lambda _parties: None,
) -> int:
    """Run the servers and devices of a recipe (None: of the run in `out`, resumed); returns the servers' exit code.

    `options` are further ones of `wavetune serve`; `watch` is called with the processes again and again while they
    run. Raises DeploymentError if the servers do not come up, a party keeps dying or what they are forks of dies.
    """
    with tempfile.TemporaryDirectory(prefix="wavetune-") as kept, stopped_at_the_end(say) as parties:
        folder = Path(kept)
        write_certificates(folder, num_devices)
        start = ["--resume"]
        if recipe is not None:
            save(recipe, folder / "recipe.json")
            start = [str(folder / "recipe.json")]
        port = folder / "port"
        common = ["--out", str(out), "--certificates", str(folder / SERVER), "--port-file", str(port), *options]
        servers = Party("the servers", ["serve", *start, "--address", "127.0.0.1:0", *common], None)
        servers.start()
        parties.append(servers)
        address = _address(servers, port)
        if address is None:
            return _seen(servers.process.wait())
        servers.arguments = ["serve", "--resume", "--address", address, *common]
        allowed = options_of(recipe or load(out / "recipe.json"))
        for client in range(num_devices):
            state = out / "devices" / device_name(client)
            arguments = ["device", address, "--certificates", str(folder / device_name(client)), "--state", str(state)]
            device = Party(f"device {client}", [*arguments, *allowed], state / "log.txt")
            with explained(state):
                state.mkdir(parents=True, exist_ok=True, mode=0o700)
                device.start()
            parties.append(device)
        return _watch_over(servers, parties[1:], out, say, lambda: watch(parties))


def exit_with_parent() -> None:
    """End this process as soon as the one that holds the other end of its standard input is gone."""

    def end() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_STOP_S)
        os._exit(1)

    once_parent_is_gone(end)


@contextmanager
def stopped_at_the_end(say: Callable[[str], None]) -> Iterator[list[Party]]:
    """Processes that end with this context, the servers first, so that devices see them go."""
    parties: list[Party] = []
    try:
        yield parties
    finally:
        for party in parties:
            party.stop()
        if any(party.starts > 1 for party in parties):
            say("started again: " + ", ".join(f"{p.name} {p.starts - 1}x" for p in parties if p.starts > 1))


def _address(servers: Party, port: Path) -> str | None:
    """Where the servers listen, once they do; None if they ended before."""
    while servers.process.poll() is None:
        if port.exists():
            return f"127.0.0.1:{port.read_text(encoding='utf-8')}"
        time.sleep(_POLL_S)
    return None


def _seen(code: int) -> int:
    """The servers' exit code. Raises DeploymentError where nobody saw their end."""
    if code == UNSEEN:
        raise DeploymentError(
            "the process that all others are forks of was killed, as by a machine out of memory: they end too, and "
            "--resume goes on where they were"
        )
    return code


def _watch_over(
    servers: Party, devices: Sequence[Party], out: Path, say: Callable[[str], None], watch: Callable[[], None]
) -> int:
    while True:
        code = servers.process.poll()
        if code is not None and (code >= 0 or not (out / "recipe.json").exists()):
            return _seen(code)
        for party in (servers, *devices):
            code = party.process.poll()
            if code is None or (code == 0 and party is not servers):
                continue
            if party.starts > RESTARTS:
                log = "" if party.log is None else f"; {party.log} says why"
                raise DeploymentError(f"{party.name} ended {party.starts} times, last with code {code}{log}")
            say(f"{party.name} ended with code {code}; starting again")
            party.start()
        watch()
        time.sleep(_POLL_S)
