"""world.json: the drawn cell."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from wavetune.records.fields import UNKNOWN


@dataclass(frozen=True)
class Device:
    """One device of world.json."""

    client_id: int
    name: str = ""
    position_m: tuple[float, float] | None = None
    flop_per_s: float = UNKNOWN
    tx_power_max_w: float = UNKNOWN
    path_loss_db: float = UNKNOWN
    shadowing_db: float = UNKNOWN
    is_los: bool | None = None
    num_samples: float = UNKNOWN
    domains: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True)
class BandShape:
    """Size of an uplink band."""

    num_subchannels: int = 0
    subchannel_hz: float = UNKNOWN


@dataclass(frozen=True)
class BandShapes:
    """Both uplink bands."""

    main: BandShape = field(default_factory=BandShape)
    fed: BandShape = field(default_factory=BandShape)


@dataclass(frozen=True)
class ServerInfo:
    """The main server."""

    flop_per_s: float = UNKNOWN


@dataclass(frozen=True)
class World:
    """The drawn cell: world.json."""

    cell_radius_m: float = UNKNOWN
    devices: tuple[Device, ...] = ()
    bands: BandShapes = field(default_factory=BandShapes)
    server: ServerInfo = field(default_factory=ServerInfo)
    preset: str = ""  # the named world that it began from
