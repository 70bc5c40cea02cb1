"""A run over Flower with all its processes on this machine: SuperLink, N SuperNodes, and the app that they run.

A SuperNode that dies is started again. With the SuperLink its app dies too: all are started again, since a SuperNode
can be left with a message of the app that died, and the app goes on from its last checkpoint.
"""

import json
import random
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from importlib.util import find_spec
from pathlib import Path

from wavetune.data_plane.certificates import SERVER, device_name, write_certificates
from wavetune.errors import ConfigError, DeploymentError, RunFolderError
from wavetune.federation.folder_lock import locked, require_own
from wavetune.federation.run_folder import explained
from wavetune.recipe import Recipe
from wavetune.runtimes.flower.app import write_app
from wavetune.runtimes.flower.process import SUPERNODE
from wavetune.runtimes.launch import RESTARTS, Party, stopped_at_the_end

_POLL_S, _START_S = 0.1, 120.0
_LINK, _RUN = "flower-superlink", "flwr"
_PORTS = range(20_000, 30_000)  # none that systems give to connections before who listens there has started
_HERE = "here"  # what `flwr run` calls the SuperLink


def deploy(
    recipe: Recipe,
    out: Path,
    num_devices: int,
    config: Mapping[str, str | float | bool],
    say: Callable[[str], None],
    watch: Callable[[list[Party]], None] = lambda _parties: None,
) -> int:
    """Run a recipe into a folder, or continue it there, on SuperNodes of this machine; returns 0 if it was finished.

    `config` holds further settings of the app; `watch` is called with the processes, the SuperLink first and the app
    last, again and again while they run. Raises ConfigError without Flower, DeploymentError if a process keeps dying.
    """
    if find_spec("flwr") is None:
        raise ConfigError('Flower is not installed; run: pip install "wavetune[flower]"')
    require_own(out)
    with tempfile.TemporaryDirectory(prefix="wavetune-") as kept, stopped_at_the_end(say) as parties:
        folder = Path(kept)
        write_certificates(folder, 0)
        link_port, data_port, *node_ports = free_ports(2 + num_devices)
        address = f"127.0.0.1:{data_port}"
        own = {"out": str(out.absolute()), "address": address, "public-address": address}
        write_app(folder / "app", recipe, own | dict(config))
        logs = out / "devices"
        with explained(logs):
            logs.mkdir(parents=True, exist_ok=True)
        link = _superlink(folder, link_port, logs)
        parties.append(link)
        _start(link, link_port)
        for client, port in enumerate(node_ports):
            parties.append(_supernode(folder, client, port, link_port, logs))
            parties[-1].start()
        run = Party("the app", ["run", str(folder / "app"), _HERE, "--stream"], None, _command(folder, "link", _RUN))
        parties.append(run)
        run.start()
        return _watch_over(parties, link_port, out, say, watch)


def _superlink(folder: Path, port: int, logs: Path) -> Party:
    own = folder / SERVER
    home = folder / "link"
    home.mkdir()
    connection = {"address": f"127.0.0.1:{port}", "root-certificates": str(own / "authority.pem")}
    lines = [f"[superlink.{_HERE}]", *(f"{key} = {json.dumps(value)}" for key, value in connection.items())]
    (home / "config.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    arguments = [
        "--host", "127.0.0.1", "--port", str(port), "--database", str(home / "state.db"),
        "--ssl-certfile", str(own / "certificate.pem"), "--ssl-keyfile", str(own / "key.pem"),
        "--ssl-ca-certfile", str(own / "authority.pem"), "--disable-runtime-dependency-installation",
    ]  # fmt: skip
    return Party("the SuperLink", arguments, logs / "superlink.txt", _command(folder, "link", _LINK))


def _supernode(folder: Path, client: int, port: int, link_port: int, logs: Path) -> Party:
    name = device_name(client)
    state = logs / name
    with explained(state):
        state.mkdir(parents=True, exist_ok=True)
    arguments = [
        "--superlink", f"127.0.0.1:{link_port}", "--root-certificates", str(folder / SERVER / "authority.pem"),
        "--host", "127.0.0.1", "--port", str(port),
        "--node-config", f"partition-id={client} state={json.dumps(str(state.absolute()))}",
    ]  # fmt: skip
    return Party(f"device {client}", arguments, state / "log.txt", _command(folder, name, SUPERNODE))


def _command(folder: Path, home: str, command: str) -> list[str]:
    return [sys.executable, "-m", "wavetune.runtimes.flower.process", str(folder / home), command]


def _start(link: Party, port: int) -> None:
    """Start the SuperLink and wait until it listens. Raises DeploymentError if it does not."""
    link.start()
    until = time.monotonic() + _START_S
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if link.process.poll() is not None or time.monotonic() > until:
            raise DeploymentError(f"the SuperLink did not start; {link.log} says why")
        time.sleep(_POLL_S)


def _watch_over(
    parties: list[Party],
    link_port: int,
    out: Path,
    say: Callable[[str], None],
    watch: Callable[[list[Party]], None],
) -> int:
    link, *nodes, run = parties
    while True:
        ended = run.process.poll() is not None
        died = [party for party in (link, *nodes) if party.process.poll() is not None]
        if (out / "summary.json").exists() and (ended or link in died):
            return 0
        if ended and link not in died:
            return 1
        for party in died:
            if party.starts > RESTARTS:
                raise DeploymentError(f"{party.name} ended {party.starts} times; {party.log} says why")
            say(f"{party.name} ended with code {party.process.returncode}; starting again")
            if party is not link:
                party.start()
                continue
            for other in (*nodes, run):
                other.stop()
            _start(link, link_port)
            for node in nodes:
                node.start()
            _await(out)
            run.start()
            break
        watch(parties)
        time.sleep(_POLL_S)


def _await(out: Path) -> None:
    """Wait until the app that lost its SuperLink has let go of the run's folder."""
    until = time.monotonic() + _START_S
    while time.monotonic() < until:
        with suppress(RunFolderError), locked(out):
            return
        time.sleep(_POLL_S)


def free_ports(count: int) -> Sequence[int]:
    """So many ports of this machine at which nothing listens. Raises DeploymentError if there are not as many."""
    found: list[int] = []
    with ExitStack() as stack:
        for port in random.SystemRandom().sample(_PORTS, len(_PORTS)):
            if len(found) == count:
                return found
            with suppress(OSError):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
                found.append(port)
    raise DeploymentError(f"{count} ports from {_PORTS[0]} to {_PORTS[-1]} are needed, and {len(found)} are free")
