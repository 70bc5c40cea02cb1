"""One of Flower's commands as a process that ends, with all that it started, with the one that started it.

`python -m wavetune.runtimes.flower.process HOME COMMAND ARGUMENT...`: HOME is Flower's folder. Flower sends no
telemetry and does not look for updates, in this process and in those that it starts.
"""

import os
import signal
import sys
import threading
import time
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace

from wavetune.workers import once_parent_is_gone

SUPERNODE = "flower-supernode"
ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
}
_LOOK_S, _GRACE_S = 0.5, 10.0
_NEXT_S = 0.5  # until a SuperNode asks for a message again, and what it started for a task; in Flower 3 and 1


def end_with_parent() -> None:
    """End the app that this process runs soon after the one that started it is gone.

    Flower asks it to, and then waits for as long as the SuperLink is away to tell it so: for ever, if it was killed.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_S)
        time.sleep(_GRACE_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def ask_often() -> None:
    """Have a SuperNode in this process ask again soon, which a SuperLink that only this machine asks can bear."""
    os.environ["FLWR_SUPEREXEC_TASK_POLL_INTERVAL"] = str(_NEXT_S)
    from flwr.supernode import start_client_internal as node

    node.time = SimpleNamespace(sleep=lambda s: time.sleep(min(s, _NEXT_S)))  # pyright: ignore[reportPrivateImportUsage]


def main() -> None:
    """Run the command. Flower reads its environment where it is imported, hence not before it is set."""
    home, command, *arguments = sys.argv[1:]
    # asked to end, an app whose message did not come whole would wait for the rest of it
    once_parent_is_gone(lambda: os.killpg(0, signal.SIGKILL))
    scripts = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    os.environ.update(
        ENVIRONMENT | {"FLWR_HOME": home, "PATH": scripts}
    )  # it starts others of its commands by their names
    sys.argv = [command, *(argument for argument in arguments if argument != "--with-parent")]
    if command == SUPERNODE:
        ask_often()
    (entry,) = entry_points(group="console_scripts", name=command)
    sys.exit(entry.load()())


if __name__ == "__main__":
    main()
