"""devices.json: who of a deployed run's devices is here, as its servers see it; written whenever that changes."""

from dataclasses import dataclass, field

FILE = "devices.json"


@dataclass(frozen=True)
class SeenDevice:
    """A device: its certificate's name, whether it attends, and when and why it was last missed."""

    client: int
    certificate: str
    connected: bool = False
    last_seen: str = ""  # ISO 8601; empty where it never came
    lost_in_round: int | None = None
    lost_why: str = ""


@dataclass(frozen=True)
class Devices:
    """What the servers of a run see."""

    address: str = ""
    round: int | None = None
    rounds: int | None = None
    written: str = ""
    devices: tuple[SeenDevice, ...] = ()
    refused: tuple[str, ...] = field(default=())
