"""Who of a deployed run's devices is here: written into the run's folder as it changes, and told to probes."""

import json
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from wavetune.data_plane.certificates import device_name
from wavetune.federation.run_folder import write_whole
from wavetune.local_http import Answer, Pages
from wavetune.logs import LOG
from wavetune.records.devices import FILE, Devices, SeenDevice
from wavetune.records.fields import as_json
from wavetune.runtimes.provenance import now

_LOOK_S = 0.5


@dataclass(frozen=True)
class Sight:
    """What the servers see at one moment: who attends, who is lost in which round and why, who was refused."""

    present: frozenset[int] = frozenset()
    round: int | None = None
    lost: Mapping[int, str] = field(default_factory=dict[int, str])
    refused: tuple[str, ...] = ()


@dataclass
class Roster:
    """The devices of one run as its servers see them, and what a probe is told of the servers.

    `seen` is empty until the servers listen, so that a probe hears that they live and are not ready.
    """

    seen: Devices | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def pages(self) -> Pages:
        """What probes may ask: whether the servers live, and whether they take devices. No names, no addresses."""
        return {"/live": lambda: _json({"live": True}), "/ready": self._ready}

    def _ready(self) -> Answer:
        seen = self.seen
        if seen is None:
            return _json({"ready": False}, 503)
        here = sum(device.connected for device in seen.devices)
        count = {"connected": here, "of": len(seen.devices)}
        return _json({"ready": True, "round": seen.round, "rounds": seen.rounds, "devices": count})

    def look(self, sight: Sight) -> bool:
        """Take in what the servers see; returns whether it is new."""
        with self._lock:
            before = self.seen or Devices()
            devices = tuple(_device(one, sight) for one in before.devices)
            seen = replace(before, round=sight.round, devices=devices, refused=sight.refused)
            self.seen = seen
            return seen != before

    @contextmanager
    def kept(
        self, folder: Path, address: str, clients: int, rounds: int, sight: Callable[[], Sight]
    ) -> Generator[None]:
        """In this block the file in the run's folder says what the servers see; in the end that nobody is here."""
        devices = tuple(SeenDevice(client, device_name(client)) for client in range(clients))
        self.seen = Devices(address=address, rounds=rounds, devices=devices)
        _write(folder, self.seen)
        over = threading.Event()

        def watch() -> None:
            while not over.wait(_LOOK_S):
                if self.look(sight()) and self.seen is not None:
                    _write(folder, self.seen)

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            last = sight()  # of a run so short that nobody has looked before
            self.look(last)
            self.look(replace(last, present=frozenset()))
            _write(folder, self.seen)
            self.seen = None


def _device(before: SeenDevice, sight: Sight) -> SeenDevice:
    connected, why = before.client in sight.present, sight.lost.get(before.client)
    if connected != before.connected:
        LOG.debug(f"{before.certificate} {'is here' if connected else 'left'}", extra={"device": before.certificate})
    seen_at = now() if before.connected and not connected else before.last_seen
    after = replace(before, connected=connected, last_seen=seen_at)
    return after if why is None else replace(after, lost_in_round=sight.round, lost_why=why)


def _write(folder: Path, seen: Devices) -> None:
    """Write the file; a disk without room is told of by what needs it more."""
    try:
        write_whole(folder / FILE, json.dumps(as_json(replace(seen, written=now())), indent=1) + "\n")
    except OSError as error:
        LOG.debug(f"{error}")


def _json(value: object, status: int = 200) -> Answer:
    return Answer(json.dumps(value) + "\n", "application/json", status)
