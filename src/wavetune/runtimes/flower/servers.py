"""The servers of a run as a Flower ServerApp: orders and reports over the Grid, streams of split methods beside it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from flwr.app import UserConfig
from flwr.serverapp import Grid

from wavetune.data_plane.certificates import SERVER, device_name, read_identity, write_certificates
from wavetune.data_plane.control import Control
from wavetune.data_plane.server import DataPlane
from wavetune.errors import ConfigError
from wavetune.given import at_home
from wavetune.runtimes.deployed import Deployment, engine
from wavetune.runtimes.engine import Engine, Trainer
from wavetune.runtimes.flower.app import DEFAULTS
from wavetune.runtimes.flower.coordinator import FlowerCoordinator
from wavetune.runtimes.session import Session


@dataclass(frozen=True)
class FlowerSettings:
    """An app's run configuration. Devices open their streams at `public_address`, where the servers' `address` is."""

    out: Path
    address: str
    public_address: str
    patience_s: float
    deadline_s: float
    emulate: bool

    @classmethod
    def of(cls, config: UserConfig) -> FlowerSettings:
        """Those of a ServerApp's context. Raises ConfigError naming the key that is of another type."""
        found = {name: config.get(name, default) for name, default in DEFAULTS.items()}
        for name, default in DEFAULTS.items():
            if type(found[name]) not in ((int, float) if isinstance(default, float) else (type(default),)):
                raise ConfigError(f"{name} of the app's configuration is {found[name]!r}, not like {default!r}")
        out, address, public, patience, deadline, emulate = found.values()
        if ":" not in str(public):
            raise ConfigError(
                f"public-address is {public!r}; it must be the HOST:PORT that devices reach the servers at"
            )
        return cls(at_home(str(out)), str(address), str(public), float(patience), float(deadline), bool(emulate))


def flower_engine(grid: Grid, settings: FlowerSettings) -> Engine:
    """What trains a run's rounds on the SuperNodes of a Grid.

    The certificates of the streams are made for this process; a device gets its own with its orders.
    """

    @contextmanager
    def opened_in(session: Session, say: Callable[[str], None]) -> Iterator[Trainer]:
        num_clients, split = session.cohort.placement.num_clients, session.cohort.placement.split
        host = settings.public_address.rpartition(":")[0].strip("[]")
        with tempfile.TemporaryDirectory(prefix="wavetune-") as kept, ExitStack() as stack:
            folder = Path(kept)
            write_certificates(folder, num_clients, [host])
            identities = {k: read_identity(folder / device_name(k)) for k in range(num_clients)}

            def control(plane: DataPlane) -> Control:
                coordinator = FlowerCoordinator(grid, plane, identities, not split, say)
                stack.callback(coordinator.close)
                return coordinator

            deployment = Deployment(
                settings.address if split else "the SuperLink",  # which then carries all
                read_identity(folder / SERVER),
                settings.public_address,
                settings.patience_s,
                settings.deadline_s,
                settings.emulate,
            )
            with engine(deployment, settings.out, None, control)(session, say) as trainer:
                yield trainer

    return opened_in
