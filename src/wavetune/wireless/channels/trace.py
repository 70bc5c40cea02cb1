"""A measured or simulated channel, read from files."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Le, MinLen
from numpy.typing import NDArray

from wavetune.errors import ConfigError, nearest
from wavetune.trace_files import KEYS, Bad, Reading, read_trace
from wavetune.trace_files import Trace as TraceFiles
from wavetune.units import Array, db_to_linear, linear_to_db
from wavetune.wireless.channels.channel_model import Cell, ChannelModel
from wavetune.wireless.validation import Positive

UNITS = {
    "gain": ("linear", "dB", "dBm"),
    "fading": ("linear", "dB"),
    "amplitude": ("linear",),
    "throughput": ("bit/s", "kbit/s", "Mbit/s", "Gbit/s"),
}
_BIT_PER_S = {"bit/s": 1.0, "kbit/s": 1e3, "Mbit/s": 1e6, "Gbit/s": 1e9}
_DEFAULT = {quantity: units[0] for quantity, units in UNITS.items()} | {"throughput": ""}
_SLOW_BIT_PER_S = 1e4
_MOST_BIT_PER_S = 1e12
_LEAST_SNR, _MOST_SNR = 1e-12, 1e9
_LEAST_DB = -400.0
_PATH = "world.scenario.channel"


@dataclass(frozen=True)
class Trace(ChannelModel):
    """Gains or throughputs per client, round and where given subchannel, from CSV, TSV, Parquet, NPZ, NPY or MAT.

    `file` is one of all clients, or a list with one for each. `quantity` says what they hold: `gain`, the power gain
    from sender to receiver with all that is in between; `amplitude`, its square root, which may be complex; `fading`, a
    gain of mean about 1 that multiplies the scenario's own path loss, shadowing and antennas; `throughput`, what a
    device with a full queue got over `bandwidth_hz` (None: the band's). A throughput, measured in the direction
    `measured`, stands for the gain at which the band's own sender, all its power spread over that bandwidth, gets it
    over the receiver's noise by the scenario's rate model.

    `unit` is one of the quantity's (None: linear, bit/s). In dBm a gain is the power that was received of a sender with
    `sent_dbm` over the same bandwidth, such as a reference signal's. Rows with a time are averaged over rounds of
    `round_s`, gains in decibels and amplitudes as power gains.
    `columns` says which columns of a table hold its `client`, `round`, `time`, `time_s`, `subchannel`, `band` and
    `direction`, or the quantity. After its last round a trace is refused, repeated or held, as `after_end` says.
    `clients` picks the trace's clients and their order; None takes all, which must be as many as the population. What a
    trace says of one band or direction alone is used for both.
    """

    file: str | tuple[str, ...] = ""
    quantity: Literal["gain", "amplitude", "fading", "throughput"] = "gain"
    unit: Literal["linear", "dB", "dBm", "bit/s", "kbit/s", "Mbit/s", "Gbit/s"] | None = None
    column: str | None = None
    columns: dict[str, str] = field(default_factory=dict[str, str])
    sent_dbm: Annotated[float, Ge(-60), Le(100)] | None = None
    round_s: Positive | None = None
    after_end: Literal["refuse", "repeat", "hold"] = "refuse"
    clients: Annotated[tuple[Annotated[int, Ge(0)], ...], MinLen(1)] | None = None
    bandwidth_hz: Positive | None = None
    measured: Literal["uplink", "downlink"] = "uplink"

    def __post_init__(self) -> None:
        super().__post_init__()
        units = UNITS[self.quantity]
        if self.unit is not None and self.unit not in units:
            raise ConfigError(f"Trace.unit is {self.unit!r} but {self.quantity} is in {' or '.join(units)}")
        if (self.unit == "dBm") != (self.sent_dbm is not None):
            raise ConfigError(
                f"a received power in dBm is a gain where the sender's is known: set {_PATH}.unit=dBm and "
                f"{_PATH}.sent_dbm together, over the same bandwidth (of RSRP the reference signal's, of one "
                "subcarrier)"
            )
        for name in self.columns:
            if name not in (*KEYS, self.quantity):
                raise ConfigError(f"Trace.columns has {name!r}; {nearest(name, (*KEYS, self.quantity))}")
        if self.quantity != "throughput" and (self.bandwidth_hz is not None or self.measured != "uplink"):
            set_ = "bandwidth_hz" if self.bandwidth_hz is not None else "measured"
            raise ConfigError(
                f"Trace.{set_} says how a throughput was measured, and quantity is {self.quantity}; leave it out"
            )

    @property
    def _files(self) -> tuple[str, ...]:
        if not self.file:
            raise ConfigError(f"{_PATH}.file is empty; name the file of the trace")
        return (self.file,) if isinstance(self.file, str) else self.file

    @property
    def _unit(self) -> str:
        return self.unit or UNITS[self.quantity][0]

    def _read(self) -> TraceFiles:
        bad = _BAD[self.quantity, self.unit or _DEFAULT[self.quantity]]
        columns = tuple(sorted(self.columns.items()))
        return read_trace(
            self._files,
            Reading(self.quantity, bad, _LINEAR.get((self.quantity, self._unit)), self.column, columns, self.round_s),
        )

    def gains(self, cell: Cell, seed: int, round_index: int) -> tuple[Array, Array]:
        """[K, M] gains of a round; those of one way stand for the other where the files have but one."""
        trace = self._read()
        ways = [self._of_round(cell, trace.of(cell.band, way), round_index, way) for way in ("uplink", "downlink")]
        uplink_KM, downlink_KM = (own if own is not None else ways[1 - i] for i, own in enumerate(ways))
        if uplink_KM is None or downlink_KM is None:
            raise ConfigError(
                f"{self._names} has nothing of the {cell.band} band; give values of both, or without band"
            )
        return uplink_KM, downlink_KM

    def require_rounds(self, rounds: int) -> None:
        """ConfigError where the trace is shorter and `after_end` refuses that."""
        least = min(len(values) for values in self._read().values.values())
        if self.after_end == "refuse" and rounds > least:
            raise ConfigError(
                f"{self._names} ends after {least} round{'s' * (least != 1)} and the run has {rounds}; set "
                f"{_PATH}.after_end=repeat or hold, or run.rounds={least}"
            )

    def inputs(self) -> Mapping[str, str]:
        """One digest of all files."""
        return {self._names: self._read().sha256}

    @property
    def _names(self) -> str:
        named, rest = ", ".join(self._files[:3]), len(self._files) - 3
        return f"{named} and {rest} more" if rest > 0 else named

    def _of_round(self, cell: Cell, values: NDArray[Any] | None, round_index: int, way: str) -> Array | None:
        if values is None:
            return None
        rounds, known, width = values.shape
        if round_index >= rounds and self.after_end == "refuse":
            self.require_rounds(round_index + 1)
        at = round_index % rounds if self.after_end == "repeat" else min(round_index, rounds - 1)
        if width not in (1, cell.num_subchannels):
            raise ConfigError(
                f"{self._names} has {width} subchannels and the {cell.band} band {cell.num_subchannels}; set "
                f"world.scenario.bands.{cell.band}.num_subchannels={width}"
            )
        value_KM = values[at, self._rows(cell, known)]
        return np.array(np.broadcast_to(self._gain(cell, value_KM, way), (len(value_KM), cell.num_subchannels)))

    def _rows(self, cell: Cell, known: int) -> list[int]:
        """Which clients of the trace the devices are."""
        chosen = range(known) if self.clients is None else self.clients
        if max(chosen, default=0) >= known:
            raise ConfigError(f"{_PATH}.clients names {max(chosen)} and {self._names} has 0 to {known - 1}")
        if max(cell.client_ids) >= len(chosen) or (self.clients is None and cell.num_clients != known):
            raise ConfigError(
                f"{self._names} has {len(chosen)} clients and the population {cell.num_clients}; set "
                f"world.scenario.population.num_clients={len(chosen)}, or pick clients in {_PATH}.clients"
            )
        return [chosen[k] for k in cell.client_ids]

    def _gain(self, cell: Cell, value_KM: NDArray[Any], way: str) -> Array:
        """[K, M] or [K, 1] linear power gains of values."""
        if self.quantity == "throughput":
            return self._gain_of_throughput(cell, value_KM * _BIT_PER_S[self._unit])
        if self.quantity == "fading":
            return cell.mean_gain_K[:, None] * value_KM
        if self.sent_dbm is None:
            return value_KM
        gain_KM = value_KM / db_to_linear(self.sent_dbm)
        if gain_KM.max(initial=0.0) >= 1:
            most_dbm = float(linear_to_db(value_KM.max()))
            raise ConfigError(
                f"{self._names} has {most_dbm:.4g} dBm received of {self.sent_dbm:g} sent; check {_PATH}.sent_dbm"
            )
        return gain_KM

    def _gain_of_throughput(self, cell: Cell, bit_per_s_KM: Array) -> Array:
        band_hz = self.bandwidth_hz or cell.num_subchannels * cell.subchannel_hz
        own_hz = band_hz if bit_per_s_KM.shape[1] == 1 else band_hz / bit_per_s_KM.shape[1]
        uplink = self.measured == "uplink"
        rate_KM = bit_per_s_KM / own_hz * cell.subchannel_hz
        most = float(cell.rate.rate_bit_per_s(np.array([_MOST_SNR]), cell.subchannel_hz, uplink)[0])
        if rate_KM.max(initial=0.0) > most * (1 + 1e-9):
            raise ConfigError(
                f"{self._names} has {bit_per_s_KM.max():g} bit/s, which over {own_hz:g} Hz are "
                f"{bit_per_s_KM.max() / own_hz:.3g} bit/s/Hz, and world.scenario.rate carries at most "
                f"{most / cell.subchannel_hz:.3g}; check {_PATH}.unit and {_PATH}.bandwidth_hz"
            )
        power_w_K1 = (cell.uplink_power_w_K if uplink else np.full(len(bit_per_s_KM), cell.downlink_power_w))[:, None]
        noise_w = (cell.noise_w if uplink else cell.device_noise_w) / cell.subchannel_hz * band_hz
        return _least_snr(cell, np.minimum(rate_KM, most), uplink) * noise_w / power_w_K1


def _least_snr(cell: Cell, rate_bit_per_s: Array, uplink: bool) -> Array:
    """The least signal-to-noise ratio at which a subchannel carries rates, by halving on a scale of decibels."""
    low, high = np.full(rate_bit_per_s.shape, np.log(_LEAST_SNR)), np.full(rate_bit_per_s.shape, np.log(_MOST_SNR))
    for _ in range(60):
        middle = (low + high) / 2
        enough = cell.rate.rate_bit_per_s(np.exp(middle), cell.subchannel_hz, uplink) >= rate_bit_per_s
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.where(rate_bit_per_s > 0, np.exp(high) * (1 + 1e-9), 0.0)  # rounded, it is not below a step


def _refusal(least: float, most: float, why: str) -> Bad:
    """Refuse what is not from `least` to `most` in size, and NaN; complex numbers but where amplitudes are meant."""

    def bad(values: NDArray[Any]) -> tuple[NDArray[np.bool_], str]:
        if np.iscomplexobj(values):
            return np.ones(
                values.shape, np.bool_
            ), f"it is complex: if it is an amplitude, set {_PATH}.quantity=amplitude"
        return ~((values >= least) & (values <= most)), why

    return bad


def _bad_amplitude(values: NDArray[Any]) -> tuple[NDArray[np.bool_], str]:
    why = "an amplitude is finite, and at most 1 in size, as no more is received than was sent"
    return ~(np.isfinite(values) & (np.abs(values) <= 1)), why


def _bad_unsaid_throughput(values: NDArray[Any]) -> tuple[NDArray[np.bool_], str]:
    """As bit/s, and as a question where nobody said so and none is as fast as a modem."""
    wrong, why = _BAD["throughput", "bit/s"](values)
    if wrong.any() or not 0 < values.max(initial=0.0) < _SLOW_BIT_PER_S:
        return wrong, why
    return values == values.max(), f"no throughput is above {values.max():g} bit/s: set {_PATH}.unit to what it is in"


def _power(amplitudes: NDArray[Any]) -> Array:
    return np.square(np.abs(amplitudes))


_LINEAR: dict[tuple[str, str], Callable[[NDArray[Any]], Array]] = {
    ("gain", "dB"): db_to_linear,
    ("gain", "dBm"): db_to_linear,  # milliwatts
    ("fading", "dB"): db_to_linear,
    ("amplitude", "linear"): _power,
}
_BAD: dict[tuple[str, str], Bad] = {
    ("gain", "linear"): _refusal(
        0.0,
        1.0,
        f"a gain is linear, from 0 to 1, as no more is received than was sent: if it is in decibels set "
        f"{_PATH}.unit=dB, if it is relative to the path loss {_PATH}.quantity=fading",
    ),
    ("gain", "dB"): _refusal(
        _LEAST_DB,
        -1e-9,
        f"a gain in dB is from {_LEAST_DB:g} to below 0, as no more is received than was sent: give a loss its minus "
        f"sign, and leave {_PATH}.unit out where gains are linear",
    ),
    ("gain", "dBm"): _refusal(_LEAST_DB, 60.0, f"a received power is from {_LEAST_DB:g} to 60 dBm"),
    ("fading", "linear"): _refusal(
        0.0, 1e6, f"fading is a linear gain of mean about 1, from 0 to 1e6: if it is in decibels set {_PATH}.unit=dB"
    ),
    ("fading", "dB"): _refusal(
        _LEAST_DB, 60.0, f"fading in dB is relative to path loss and shadowing, from {_LEAST_DB:g} to 60"
    ),
    ("amplitude", "linear"): _bad_amplitude,
    ("throughput", ""): _bad_unsaid_throughput,
    **{
        ("throughput", unit): _refusal(
            0.0, _MOST_BIT_PER_S / scale, f"a throughput is from 0 to {_MOST_BIT_PER_S:g} bit/s; check {_PATH}.unit"
        )
        for unit, scale in _BIT_PER_S.items()
    },
}
