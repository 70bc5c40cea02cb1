"""What a subchannel carries at a signal-to-noise ratio: Shannon's bound with losses, or a standard's coding schemes.

Every model gives the rate that a link really carries, and a concave envelope that no rate exceeds,

    R <= share * B * min(log2(1 + snr / gap), most),

over which a plan can be found exactly. A model below its envelope also gives a ladder: ratios at which it is worth
sending, and the rate at each.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, cast

import numpy as np
from annotated_types import Ge, Gt, Le, Lt

from wavetune.errors import ConfigError
from wavetune.guarded import Checks
from wavetune.parts import Part
from wavetune.units import Array, db_to_linear, linear_to_db
from wavetune.wireless.validation import Checked

SUBCARRIERS_A_BLOCK = 12  # TS 38.211 clause 4.4.4.1
_SYMBOLS_A_SLOT, _SLOTS_A_SECOND, _SPACING_HZ = 14, 1000, 15e3  # at numerology 0; both grow by 2^mu (TS 38.211 4.2)

_REACHED = 1 - 1e-9  # Share of a step's ratio at which it is taken, as powers are rounded.

Share = Annotated[float, Gt(0), Le(1)]
Overhead = Annotated[float, Ge(0), Lt(1)]
Efficiency = Annotated[float, Ge(0.01), Le(100)]


class Envelope(NamedTuple):
    """Rates of at most share * B * min(log2(1 + snr / gap), most): `most` in bit/s/Hz, the others without unit."""

    share: float = 1.0
    gap: float = 1.0
    most: float = np.inf

    def rate_bit_per_s(self, snr: Array, subchannel_hz: float) -> Array:
        """The envelope itself, bit/s, in the shape of the ratio (linear)."""
        uncapped = subchannel_hz * np.log1p(np.divide(snr, self.gap)) / np.log(2)
        return self.share * np.minimum(uncapped, subchannel_hz * self.most)


class Ladder(NamedTuple):
    """Ratios (linear) at which it is worth sending, ascending, and the rate at each (bit/s)."""

    snr_I: Array
    rate_bit_per_s_I: Array

    def reached(self, snr: Array) -> Array:
        """The rate of the last step whose ratio is reached, 0 below the first; in the shape of the ratio."""
        reached = np.searchsorted(self.snr_I * _REACHED, np.asarray(snr, np.float64), side="right")
        return np.concatenate(([0.0], self.rate_bit_per_s_I))[reached]


def _check_rate(model: RateModel, found: Any, snr: Array, subchannel_hz: float, uplink: bool = True) -> str:
    most = model.envelope(subchannel_hz, uplink).rate_bit_per_s(snr, subchannel_hz) * (1 + 1e-9)
    fits = np.shape(found) == np.shape(snr) and bool(np.all((np.asarray(found) >= 0) & (found <= most)))
    return "" if fits else f"rates {list(np.shape(snr))} from 0 to what its envelope gives"


def _check_envelope(_: RateModel, found: Any, *__: Any, **___: Any) -> str:
    fits = isinstance(found, Envelope) and min(found) > 0
    return "" if fits else "an Envelope of positive numbers"


class RateModel(Checked, Part):
    """What a subchannel carries; `uplink` says in which direction."""

    checks: ClassVar[Checks] = {"rate_bit_per_s": _check_rate, "envelope": _check_envelope}

    def rate_bit_per_s(self, snr: Array, subchannel_hz: float, uplink: bool = True) -> Array:
        """Rate at a signal-to-noise ratio (linear, over the whole subchannel), bit/s, in the shape of the ratio."""
        raise NotImplementedError

    def envelope(self, subchannel_hz: float, uplink: bool = True) -> Envelope:
        """A concave rate that the real one never exceeds."""
        raise NotImplementedError

    def ladder(self, subchannel_hz: float, uplink: bool = True) -> Ladder | None:
        """The rates worth sending at, where the envelope is not reached everywhere."""
        return None

    def in_numbers(self, subchannel_hz: float, uplink: bool = True) -> dict[str, Any]:
        """What a subchannel carries, for whoever knows no kinds: a ladder's steps, all there are, or the envelope."""
        if (ladder := self.ladder(subchannel_hz, uplink)) is not None:
            snr_I, rate_I = ladder
            return {"share": 1.0, "gap": 1.0, "snr": (snr_I * _REACHED).tolist(), "bit_per_s": rate_I.tolist()}
        share, gap, most = self.envelope(subchannel_hz, uplink)
        return {"share": share, "gap": gap, "max_bit_per_s_per_hz": None if most == np.inf else most}

    def require_width(self, name: str, subchannel_hz: float) -> None:
        """ConfigError, naming the band, where a subchannel is too narrow."""


@dataclass(frozen=True)
class Shannon(RateModel):
    """Shannon's bound with what a real link loses; without any setting the bound itself.

    Formula: R = (1 - overhead) share B min(log2(1 + snr / gap), most).

    Args:
        snr_gap_db: how much more signal than Shannon's a code needs, dB.
        max_bit_per_s_per_hz: the most that the densest modulation and its code carry; None for no limit.
        uplink_overhead, downlink_overhead: share of a band taken by pilots and control (TS 38.306 clause 4.1.2 has 0.08
            and 0.14 below 7 GHz, 0.10 and 0.18 above).
        uplink_share, downlink_share: share of the time that a direction has (1 for frequency division).

    Ignores: cyclic prefix, and retransmissions other than in the gap.

    >>> Shannon(max_bit_per_s_per_hz=1.5).rate_bit_per_s(np.array([1.0, 3.0]), 1e6).tolist()
    [1000000.0, 1500000.0]
    """

    snr_gap_db: Annotated[float, Ge(0), Le(30)] = 0.0
    max_bit_per_s_per_hz: Efficiency | None = None
    uplink_overhead: Overhead = 0.0
    downlink_overhead: Overhead = 0.0
    uplink_share: Share = 1.0
    downlink_share: Share = 1.0

    def envelope(self, subchannel_hz: float, uplink: bool = True) -> Envelope:
        """The rate itself."""
        overhead = self.uplink_overhead if uplink else self.downlink_overhead
        share = (1 - overhead) * (self.uplink_share if uplink else self.downlink_share)
        most = np.inf if self.max_bit_per_s_per_hz is None else self.max_bit_per_s_per_hz
        return Envelope(share, db_to_linear(self.snr_gap_db), most)

    def rate_bit_per_s(self, snr: Array, subchannel_hz: float, uplink: bool = True) -> Array:
        """Rate, bit/s, in the shape of the ratio."""
        return self.envelope(subchannel_hz, uplink).rate_bit_per_s(snr, subchannel_hz)


_RUNGS = 160
_MOST_BITS = 100.0  # of Shannon's bound, at a signal 300 dB above the noise


@dataclass(frozen=True)
class AttenuatedShannon(RateModel):
    """A link with adaptive modulation as an attenuated Shannon bound between a least and a largest rate.

    Formula: 0 below snr_min, alpha B log2(1 + snr) from there on, at most B max.
    Source: TR 36.942 annex A.1; the defaults are its Table A.1 (uplink 0.4 up to 2.0, downlink 0.6 up to 4.4 bit/s/Hz,
    both from -10 dB on).

    >>> AttenuatedShannon().rate_bit_per_s(np.array([0.01, 1.0, 1e6]), 1e6).tolist()
    [0.0, 400000.0, 2000000.0]
    """

    uplink_attenuation: Share = 0.4
    downlink_attenuation: Share = 0.6
    uplink_max_bit_per_s_per_hz: Efficiency = 2.0
    downlink_max_bit_per_s_per_hz: Efficiency = 4.4
    min_snr_db: Annotated[float, Ge(-40), Le(30)] = -10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for uplink in (True, False):
            alpha, most = self._alpha_and_most(uplink)
            if alpha * np.log2(1 + db_to_linear(self.min_snr_db)) >= most:
                raise ConfigError(
                    f"AttenuatedShannon.min_snr_db is {self.min_snr_db:g}, at which the rate is already above its "
                    f"maximum of {most:g} bit/s/Hz; lower it"
                )
            if most > _MOST_BITS * alpha:
                way = "uplink" if uplink else "downlink"
                raise ConfigError(
                    f"AttenuatedShannon.{way}_attenuation is {alpha:g}, with which no link reaches the maximum of "
                    f"{most:g} bit/s/Hz; raise it, or lower {way}_max_bit_per_s_per_hz"
                )

    def _alpha_and_most(self, uplink: bool) -> tuple[float, float]:
        if uplink:
            return self.uplink_attenuation, self.uplink_max_bit_per_s_per_hz
        return self.downlink_attenuation, self.downlink_max_bit_per_s_per_hz

    def envelope(self, subchannel_hz: float, uplink: bool = True) -> Envelope:
        """The rate without its least ratio."""
        alpha, most = self._alpha_and_most(uplink)
        return Envelope(alpha, 1.0, most / alpha)

    def rate_bit_per_s(self, snr: Array, subchannel_hz: float, uplink: bool = True) -> Array:
        """Rate, bit/s, in the shape of the ratio."""
        carried = self.envelope(subchannel_hz, uplink).rate_bit_per_s(snr, subchannel_hz)
        return np.where(np.asarray(snr) >= self._least_snr, carried, 0.0)

    @property
    def _least_snr(self) -> float:
        return float(db_to_linear(self.min_snr_db)) * (1 - 1e-12)

    def in_numbers(self, subchannel_hz: float, uplink: bool = True) -> dict[str, Any]:
        """The envelope and the least ratio; the ladder's steps are some of many."""
        share, gap, most = self.envelope(subchannel_hz, uplink)
        return {"share": share, "gap": gap, "max_bit_per_s_per_hz": most, "least_snr": self._least_snr}

    def ladder(self, subchannel_hz: float, uplink: bool = True) -> Ladder:
        """Ratios in steps of a fraction of a dB, from the least to that of the largest rate."""
        most = self.envelope(subchannel_hz, uplink).most
        snr_I = np.asarray(np.geomspace(db_to_linear(self.min_snr_db), 2.0**most - 1, _RUNGS), np.float64)
        return Ladder(snr_I, self.rate_bit_per_s(snr_I, subchannel_hz, uplink))


# TS 38.214 Tables 5.1.3.1-1 and 5.1.3.1-2: bits of a symbol, and code rate times 1024, by index.
_QPSK_1 = [(2, rate) for rate in (120, 157, 193, 251, 308, 379, 449, 526, 602, 679)]
_QAM16_1 = [(4, rate) for rate in (340, 378, 434, 490, 553, 616, 658)]
_QAM64_1 = [(6, rate) for rate in (438, 466, 517, 567, 616, 666, 719, 772, 822, 873, 910, 948)]
_QPSK_2 = [(2, rate) for rate in (120, 193, 308, 449, 602)]
_QAM16_2 = [(4, rate) for rate in (378, 434, 490, 553, 616, 658)]
_QAM64_2 = [(6, rate) for rate in (466, 517, 567, 616, 666, 719, 772, 822, 873)]
_QAM256_2 = [(8, rate) for rate in (682.5, 711, 754, 797, 841, 885, 916.5, 948)]
MCS_TABLES: dict[str, list[tuple[int, float]]] = {
    "64qam": [*_QPSK_1, *_QAM16_1, *_QAM64_1],
    "256qam": [*_QPSK_2, *_QAM16_2, *_QAM64_2, *_QAM256_2],
}
_GAP_DB, _GAP_DB_A_BIT = 0.6, 0.27  # of a link with an LDPC code of some thousand bits, to Shannon's ratio
_DECADE_DB = 0.5  # that much more signal lets a tenth of the blocks fail


@dataclass(frozen=True)
class NrMcs(RateModel):
    """5G NR: the fastest of the standard's modulation and coding schemes whose blocks fail no more often than `bler`.

    Formula: R = N 12 14 2^mu 1000 (1 - overhead) share Q r (1 - bler), N whole resource blocks of 12 subcarriers of
    15 kHz 2^mu in a subchannel, Q r the bits of a symbol (TS 38.306 clause 4.1.2 with one layer; TS 38.214 Tables
    5.1.3.1-1 and 5.1.3.1-2). Power goes into the blocks alone, whose ratio is snr B / (N 12 15 kHz 2^mu).
    A scheme of efficiency e is used from this ratio on, in dB:
        10 log10(2^e - 1) + 0.6 + 0.27 e + 0.5 log10(0.1 / bler),
    a block error rate that falls tenfold in half a dB. This curve is a fit of ours; it is within 1 dB of what Sionna's
    tables for AWGN give (PDSCH, code blocks of 2000 bits).
    A block that fails is sent again and fails as often as any, so that 1 / (1 - bler) blocks are sent for one.

    Ignores: combining of retransmissions and their waiting time, several layers, power control's limits.

    >>> NrMcs().rate_bit_per_s(np.array([1e9]), 360e3).round(-3).tolist()  # 2 blocks of 168,000 symbols/s and 7.4 bit
    [2060000.0]
    """

    kind = "nr_mcs"
    table: Literal["64qam", "256qam"] = "256qam"
    numerology: Annotated[int, Ge(0), Le(4)] = 0
    bler: Annotated[float, Ge(1e-4), Le(0.5)] = 0.1
    uplink_overhead: Overhead = 0.08
    downlink_overhead: Overhead = 0.14
    uplink_share: Share = 1.0
    downlink_share: Share = 1.0

    @property
    def block_hz(self) -> float:
        """Width of a resource block, Hz."""
        return SUBCARRIERS_A_BLOCK * _SPACING_HZ * 2**self.numerology

    def blocks(self, subchannel_hz: float) -> int:
        """Whole resource blocks in a subchannel."""
        return int(subchannel_hz / self.block_hz * (1 + 1e-12))

    def require_width(self, name: str, subchannel_hz: float) -> None:
        """ConfigError where a subchannel holds no resource block."""
        if self.blocks(subchannel_hz) < 1:
            raise ConfigError(
                f"{name}.subchannel_hz is {subchannel_hz:g} but nr_mcs with numerology {self.numerology} needs at "
                f"least a resource block of {self.block_hz:g} Hz; widen it or lower the numerology"
            )

    def efficiency_I(self) -> Array:
        """Bits of a symbol of every scheme, ascending."""
        return np.sort(np.array([bits * rate / 1024 for bits, rate in MCS_TABLES[self.table]]))

    def block_snr_db_I(self) -> Array:
        """Ratio in a resource block from which on every scheme is used, dB."""
        e_I = self.efficiency_I()
        backoff_db = _DECADE_DB / 10 * float(linear_to_db(0.1 / self.bler))
        return linear_to_db(np.exp2(e_I) - 1) + _GAP_DB + _GAP_DB_A_BIT * e_I + backoff_db

    def ladder(self, subchannel_hz: float, uplink: bool = True) -> Ladder:
        """The schemes' ratios, and the rate of each."""
        blocks = self.blocks(subchannel_hz)
        symbols_per_s = blocks * SUBCARRIERS_A_BLOCK * _SYMBOLS_A_SLOT * _SLOTS_A_SECOND * 2**self.numerology
        overhead = self.uplink_overhead if uplink else self.downlink_overhead
        share = self.uplink_share if uplink else self.downlink_share
        snr_I = db_to_linear(self.block_snr_db_I()) * (blocks * self.block_hz / subchannel_hz)
        return Ladder(snr_I, symbols_per_s * (1 - overhead) * share * (1 - self.bler) * self.efficiency_I())

    def rate_bit_per_s(self, snr: Array, subchannel_hz: float, uplink: bool = True) -> Array:
        """Rate, bit/s, in the shape of the ratio."""
        return self.ladder(subchannel_hz, uplink).reached(snr)

    def envelope(self, subchannel_hz: float, uplink: bool = True) -> Envelope:
        """The least rate of its form that is above all schemes."""
        return envelope_of_ladder(self, subchannel_hz, uplink)


@dataclass(frozen=True)
class RateStep(Checked):
    """From this ratio on, dB, a subchannel carries so much."""

    snr_db: Annotated[float, Ge(-40), Le(80)]
    bit_per_s_per_hz: Efficiency


@dataclass(frozen=True)
class Table(RateModel):
    """A table of one's own, such as of link-level simulation or measurement: nothing below its first step.

    Formula: R = B e_i, e_i of the last step whose ratio is reached. What is lost to pilots, control and blocks that are
    sent again is taken off in the table. Both directions carry the same.

    >>> low, high = RateStep(0.0, 0.5), RateStep(10.0, 2.0)
    >>> Table((low, high)).rate_bit_per_s(np.array([0.5, 1.0, 9.0, 10.0]), 1e6).tolist()
    [0.0, 500000.0, 500000.0, 2000000.0]
    """

    steps: tuple[RateStep, ...] = ()

    def __post_init__(self) -> None:
        given = cast("tuple[Any, ...]", self.steps)  # objects where they are JSON's
        try:
            steps = tuple(RateStep(**cast("dict[str, Any]", one)) if isinstance(one, dict) else one for one in given)
        except TypeError:
            raise ConfigError("Table.steps holds what has other fields than snr_db and bit_per_s_per_hz") from None
        object.__setattr__(self, "steps", steps)
        super().__post_init__()
        if not self.steps:
            raise ConfigError(
                "Table.steps is empty; give a table with the columns snr_db and bit_per_s_per_hz, as a list or as the "
                "name of a CSV file"
            )
        for i, (step, after) in enumerate(pairwise(self.steps)):
            if step.snr_db >= after.snr_db or step.bit_per_s_per_hz >= after.bit_per_s_per_hz:
                raise ConfigError(
                    f"Table.steps[{i + 1}] is not above the one before it, in snr_db and bit_per_s_per_hz; sort the "
                    "steps, and leave out those that carry no more than one of less signal"
                )

    def ladder(self, subchannel_hz: float, uplink: bool = True) -> Ladder:
        """The steps."""
        snr_db, efficiency = zip(*((step.snr_db, step.bit_per_s_per_hz) for step in self.steps), strict=True)
        return Ladder(db_to_linear(np.array(snr_db)), subchannel_hz * np.array(efficiency))

    def rate_bit_per_s(self, snr: Array, subchannel_hz: float, uplink: bool = True) -> Array:
        """Rate, bit/s, in the shape of the ratio."""
        return self.ladder(subchannel_hz, uplink).reached(snr)

    def envelope(self, subchannel_hz: float, uplink: bool = True) -> Envelope:
        """The least rate of its form that is above all steps."""
        return envelope_of_ladder(self, subchannel_hz, uplink)


@cache
def envelope_of_ladder(model: RateModel, subchannel_hz: float, uplink: bool) -> Envelope:
    """The envelope of a ladder whose mean over the rungs is least: of several gaps, each with the share it needs."""
    ladder = model.ladder(subchannel_hz, uplink)
    assert ladder is not None
    efficiency_I, best, least = ladder.rate_bit_per_s_I / subchannel_hz, Envelope(), np.inf
    for gap_db in np.linspace(-10.0, 30.0, 401):
        bits_I = np.log2(1 + ladder.snr_I * (1 - 1e-9) / db_to_linear(float(gap_db)))
        share = float(np.max(efficiency_I / bits_I)) * (1 + 1e-9)
        most = float(efficiency_I[-1]) / share * (1 + 1e-9)
        above = float(np.mean(np.minimum(bits_I, most) * share - efficiency_I))
        if above < least:
            best, least = Envelope(share, db_to_linear(float(gap_db)), most), above
    return best
