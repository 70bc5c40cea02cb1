"""What a user configures: bands, the population of devices, the server, and the cell around them.

The defaults are a 5G street cell with handsets: power class 3 (23 dBm, TS 38.101-1 Table 6.2.1-1), noise figures of
5 dB at the base station and 9 dB at a device and 8 dBi of antenna (usual in 3GPP's evaluations, TR 38.802 annex A.2),
256-QAM at most (7.4 bit/s/Hz, the last row of TS 38.214 Table 5.1.3.1-2), 2 dB to Shannon's bound, pilots and control
of TS 38.306 clause 4.1.2 (8 and 14 %), and a way back that takes time. 53 dB of coupling loss at least are usual for
street cells; what devices draw besides radiated power is an assumption of ours. `presets` names other worlds.

Every part holds plain values and refuses impossible ones when it is built. Levels in dB and dBm occur only here; the
properties and the drawn `Device` are linear and in SI units.
"""

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Gt, Le
from numpy.typing import ArrayLike

from wavetune.errors import ConfigError
from wavetune.units import Array, db_to_linear, dbm_to_w
from wavetune.wireless.channels.block import Block
from wavetune.wireless.channels.channel_model import ChannelModel
from wavetune.wireless.fading import Fading, Rayleigh
from wavetune.wireless.knowledge import Knowledge
from wavetune.wireless.neighbours import Neighbours
from wavetune.wireless.path_loss import PathLoss, UrbanMicro
from wavetune.wireless.penetration import Building
from wavetune.wireless.placement import Placement, UniformDisc
from wavetune.wireless.power_control import PowerControl
from wavetune.wireless.rate_models import RateModel, Shannon
from wavetune.wireless.validation import Checked, Count, Positive, PowerDbm, PsdDbmPerHz, check_range

AntennaGainDb = Annotated[float, Ge(-50), Le(50)]
NoiseFigureDb = Annotated[float, Ge(0), Le(40)]
DeviceWatts = Annotated[float, Ge(0), Le(1e3)]


def _street_rate() -> Shannon:
    return Shannon(snr_gap_db=2.0, max_bit_per_s_per_hz=7.4063, uplink_overhead=0.08, downlink_overhead=0.14)


@dataclass(frozen=True)
class Band(Checked):
    """One OFDMA band: equal subchannels, white noise, and the power limits of both directions.

    `total_power_max_dbm` caps the sum of the clients' powers in the uplink, which nothing does in a network: the
    default of 100 W is out of reach. `downlink_power_dbm` is the server's power, spread evenly over the subchannels.
    Receivers add their noise figure to `noise_psd_dbm_per_hz`. `interference_dbm_per_hz` is the density of a jammer or
    of other cells at the receiver, on `jammed_subchannels` or, where these are not given, on all.

    >>> f"{Band().noise_w:.3g}"
    '1.99e-15'
    """

    num_subchannels: Annotated[int, Ge(1), Le(4000)] = 20
    subchannel_hz: Annotated[float, Ge(1), Le(1e11)] = 500e3
    noise_psd_dbm_per_hz: PsdDbmPerHz = -174.0
    total_power_max_dbm: PowerDbm = 50.0
    downlink_power_dbm: PowerDbm = 43.0
    interference_dbm_per_hz: PsdDbmPerHz | None = None
    jammed_subchannels: tuple[Annotated[int, Ge(0)], ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        outside = [m for m in self.jammed_subchannels or () if m >= self.num_subchannels]
        if outside:
            raise ConfigError(
                f"Band.jammed_subchannels names {outside[0]} but num_subchannels is {self.num_subchannels}; "
                f"count from 0 to {self.num_subchannels - 1}"
            )
        if self.jammed_subchannels is not None and self.interference_dbm_per_hz is None:
            raise ConfigError("Band.jammed_subchannels is set but interference_dbm_per_hz is not; give its density")

    @property
    def noise_psd_w_per_hz(self) -> float:
        """Noise power spectral density, W/Hz."""
        return dbm_to_w(self.noise_psd_dbm_per_hz)

    @property
    def noise_w(self) -> float:
        """Noise power in one subchannel before any receiver, W."""
        return self.noise_psd_w_per_hz * self.subchannel_hz

    @property
    def total_power_max_w(self) -> float:
        """Cap on the sum of the clients' transmit powers, W."""
        return dbm_to_w(self.total_power_max_dbm)

    @property
    def downlink_power_w(self) -> float:
        """Transmit power of the server, W."""
        return dbm_to_w(self.downlink_power_dbm)

    @property
    def interference_w_M(self) -> Array:
        """[M] interference power in each subchannel, W."""
        interference_w_M = np.zeros(self.num_subchannels)
        if self.interference_dbm_per_hz is not None:
            jammed = slice(None) if self.jammed_subchannels is None else list(self.jammed_subchannels)
            interference_w_M[jammed] = dbm_to_w(self.interference_dbm_per_hz) * self.subchannel_hz
        return interference_w_M


@dataclass(frozen=True)
class Bands(Checked):
    """The band to the main server (activations) and the band to the federated server (adapters)."""

    main: Band = field(default_factory=Band)
    fed: Band = field(default_factory=Band)


@dataclass(frozen=True)
class KnownDevice(Checked):
    """What is known of one device; what is None is drawn, or common to all, as the population and the cell have it.

    It stands at `x_m`, `y_m` from the server or, in a direction that is drawn, at `distance_m`.
    """

    clock_hz: Positive | None = None
    cycles_per_flop: Positive | None = None
    switched_capacitance: Positive | None = None
    tx_power_max_dbm: PowerDbm | None = None
    memory_bytes: Positive | None = None
    distance_m: Positive | None = None
    x_m: float | None = None
    y_m: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.x_m is None) != (self.y_m is None) or None not in (self.x_m, self.distance_m):
            raise ConfigError("KnownDevice.x_m and y_m go together, and without distance_m; give these two or that")

    def position_m(self, drawn_m_2: Array) -> Array:
        """Where it stands, if another position was drawn for it, m."""
        if self.x_m is not None and self.y_m is not None:
            return np.array([self.x_m, self.y_m])
        return drawn_m_2 if self.distance_m is None else drawn_m_2 * (self.distance_m / np.hypot(*drawn_m_2))


@dataclass(frozen=True)
class Population(Checked):
    """How devices are drawn: the clock is uniform over its range, the rest is common to all.

    Of `devices`, one for each client, what is known takes the place of what is said here.

    `memory_bytes`, one number or one per client, limits the blocks that a client can train; None is no limit. The
    defaults give 1.0 to 1.6 TFLOP/s at 10 to 41 W, and 0.2 W to send.

    While it sends, a device draws its transmit power over `amplifier_efficiency`, and `circuit_power_w` besides; while
    it receives `receive_power_w`; and all through a round `idle_power_w`.
    """

    num_clients: Count = 5
    clock_hz: tuple[Positive, Positive] = (1.0e9, 1.6e9)
    cycles_per_flop: Positive = 1 / 1024
    switched_capacitance: Positive = 1e-26
    tx_power_max_dbm: PowerDbm = 23.0
    antenna_gain_db: AntennaGainDb = 0.0
    noise_figure_db: NoiseFigureDb = 9.0
    amplifier_efficiency: Annotated[float, Ge(1e-6), Le(1)] = 0.35
    circuit_power_w: DeviceWatts = 0.1
    receive_power_w: DeviceWatts = 0.2
    idle_power_w: DeviceWatts = 0.05
    memory_bytes: Positive | tuple[Positive, ...] | None = None
    devices: tuple[KnownDevice, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        low_hz, high_hz = self.clock_hz
        if low_hz > high_hz:
            raise ConfigError(f"Population.clock_hz is {self.clock_hz} but must be (low, high); swap the two values")
        if isinstance(self.memory_bytes, tuple) and len(self.memory_bytes) != self.num_clients:
            raise ConfigError(
                f"Population.memory_bytes has {len(self.memory_bytes)} values for {self.num_clients} clients; give one "
                "number for all, or one per client"
            )
        if self.devices and len(self.devices) != self.num_clients:
            raise ConfigError(
                f"Population.devices has {len(self.devices)} rows for {self.num_clients} clients; give one for each, "
                "or set num_clients to as many"
            )

    def memory_bytes_of(self, client: int) -> float:
        """Memory of a client; infinite where it is not limited."""
        own = self.memory_bytes[client] if isinstance(self.memory_bytes, tuple) else self.memory_bytes
        known = self.devices[client].memory_bytes if self.devices else None
        return known or own or math.inf

    def known(self, field: str, otherwise: ArrayLike) -> Array:
        """[K] a field of all devices, where it is not known this."""
        found_K = np.array(np.broadcast_to(np.asarray(otherwise, np.float64), self.num_clients))
        for k, device in enumerate(self.devices):
            own = getattr(device, field)
            found_K[k] = found_K[k] if own is None else own
        return found_K


@dataclass(frozen=True)
class Server(Checked):
    """The servers' side: speed and energy of the main one, shared by all clients, and the base station's radio.

    Defaults: 5e9 cycles/s at 32768 FLOP per cycle, and the energy of an accelerator that draws 400 W at that speed (an
    assumption of ours).
    """

    flop_per_s: Positive = 5e9 * 32768
    energy_j_per_flop: Positive = 2.5e-12
    noise_figure_db: NoiseFigureDb = 5.0
    amplifier_efficiency: Annotated[float, Ge(1e-6), Le(1)] = 0.35


@dataclass(frozen=True)
class Device:
    """A drawn device; `memory_bytes` is infinite where it is not limited."""

    client_id: int
    position_m: tuple[float, float]
    flop_per_s: float
    energy_j_per_flop: float
    tx_power_max_w: float
    memory_bytes: float
    is_los: bool
    path_loss_db: float
    shadowing_db: float


@dataclass(frozen=True)
class Scenario(Checked):
    """A cell with its server at the origin, the devices in it, and the models of the channel between them.

    `preset` names the values that the world began from (`presets`). `rate` is what a subchannel carries, and with
    `price_downlink` the way back takes time. `antenna_gain_db` is the base station's. No device is received with less
    loss than `min_coupling_loss_db`, antenna gains included. A share `indoor_fraction` of the devices is in a
    `building` (`penetration`). `reciprocal` gives the downlink the uplink's fading (time division); otherwise the two
    fade independently (frequency division). `channel` says how gains come about from round to round, or that a trace
    holds them, `knowledge` what of them is known when a round is planned. Shadowing is drawn for each device by itself
    or, with a `shadowing_distance_m`, correlated between devices d apart by exp(-d / shadowing_distance_m). A recipe is
    asked about values that look like another unit, unless they are said to be `unusual`. With a `power_control` devices
    send with what their path loss asks for, counted over an equal share of the main band; with `neighbours` cells
    around this one interfere.
    """

    population: Population = field(default_factory=Population)
    server: Server = field(default_factory=Server)
    bands: Bands = field(default_factory=Bands)
    cell_radius_m: Annotated[float, Ge(1), Le(1e6)] = 200.0
    min_distance_m: Positive = 10.0
    carrier_hz: Annotated[float, Ge(1e6), Le(1e13)] = 3.5e9
    antenna_gain_db: Annotated[float, Ge(-100), Le(100)] = 8.0
    min_coupling_loss_db: Annotated[float, Ge(0), Le(200)] = 53.0
    path_loss: PathLoss = field(default_factory=UrbanMicro)
    indoor_fraction: Annotated[float, Ge(0), Le(1)] = 0.0
    building: Building = "low_loss"
    shadowing: bool = True
    shadowing_distance_m: Annotated[float, Gt(0), Le(1e4)] | None = None
    fading: Fading = field(default_factory=Rayleigh)
    placement: Placement = field(default_factory=UniformDisc)
    channel: ChannelModel = field(default_factory=Block)
    knowledge: Knowledge = field(default_factory=Knowledge)
    rate: RateModel = field(default_factory=_street_rate)
    power_control: PowerControl | None = None
    neighbours: Neighbours | None = None
    price_downlink: bool = True
    reciprocal: bool = True
    unusual: bool = False
    preset: Literal["cell", "paper"] = "cell"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_distance_m >= self.cell_radius_m:
            raise ConfigError(
                f"Scenario.min_distance_m is {self.min_distance_m:g} but must be less than "
                f"cell_radius_m = {self.cell_radius_m:g}; shrink it or enlarge the cell"
            )
        for name, band in (("main", self.bands.main), ("fed", self.bands.fed)):
            self.rate.require_width(f"bands.{name}", band.subchannel_hz)
        self.placement.require_inside(self.population.num_clients, self.min_distance_m, self.cell_radius_m)
        if self.indoor_fraction > 0 and self.path_loss.indoor_depth_m is None:
            raise ConfigError(
                f"Scenario.indoor_fraction is {self.indoor_fraction:g} but {self.path_loss.kind} has no outer walls; "
                "set it to 0, or path_loss to urban_micro, urban_macro or rural_macro"
            )
        for k, device in enumerate(self.population.devices):
            at_m = device.position_m(np.array([self.min_distance_m, 0.0]))
            ring = "from Scenario.min_distance_m to Scenario.cell_radius_m"
            name = f"the distance of Population.devices[{k}]"
            check_range(name, math.hypot(*at_m), self.min_distance_m, self.cell_radius_m, ring)
        source = f"the range of {type(self.path_loss).__name__}"
        check_range("Scenario.min_distance_m", self.min_distance_m, *self.path_loss.distance_limits_m, source)
        check_range("Scenario.cell_radius_m", self.cell_radius_m, *self.path_loss.distance_limits_m, source)
        if self.neighbours is not None:
            limits_m = self.path_loss.distance_limits_m
            self.neighbours.require_apart(self.cell_radius_m, limits_m, type(self.path_loss).__name__)
        check_range("Scenario.carrier_hz", self.carrier_hz, *self.path_loss.carrier_limits_hz, source)

    def coupling_loss_db(self, loss_db: Array) -> Array:
        """Loss between the connectors of both ends, dB, of the loss between their antennas."""
        antennas_db = self.antenna_gain_db + self.population.antenna_gain_db
        return np.maximum(loss_db - antennas_db, self.min_coupling_loss_db)

    def tx_power_max_w(self, coupling_loss_db_K: Array, most_dbm_K: Array) -> Array:
        """What devices send with at these coupling losses that may send with so much, W."""
        if self.power_control is None:
            return dbm_to_w(most_dbm_K)
        share_hz = self.bands.main.num_subchannels * self.bands.main.subchannel_hz / self.population.num_clients
        power_dbm_K = self.power_control.power_dbm(most_dbm_K, share_hz, coupling_loss_db_K)
        return db_to_linear(power_dbm_K - 30)

    def noise_w_per_hz(self, band: Band, uplink: bool) -> float:
        """Noise of the receiver of a direction, its noise figure included, W/Hz."""
        receiver = self.server if uplink else self.population
        return band.noise_psd_w_per_hz * db_to_linear(receiver.noise_figure_db)
