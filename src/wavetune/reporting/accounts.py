"""What rounds cost: totals over rounds, what the round waited for, and planned against charged against metered."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from wavetune.records.rounds import BIT_KINDS, Account, Bits, Phases, Round
from wavetune.reporting import format as fmt

PHASES = {
    "client_forward_s": "client forward",
    "uplink_s": "uplink",
    "server_forward_s": "server forward",
    "server_backward_s": "server backward",
    "downlink_s": "downlink",
    "client_backward_s": "client backward",
    "fed_upload_s": "adapter upload",
    "fed_download_s": "adapter download",
    "link_s": "other links",
    "server_steps_s": "server's own steps",
}
BESIDE = ("link_s", "server_steps_s")
"""Phases in which a round waits for no client."""
CHANGING = "changing stragglers"
TOTALS = ("all bits", "delay", "energy")
EQUAL_TOLERANCE = 1e-9


def critical_s(account: Account) -> dict[str, float]:
    """Seconds that each phase contributes to the round's delay: those of the client that was waited for.

    The parts sum to the delay. Where the straggler changes from step to step, sums over the steps name one client only,
    and what is missing is called "changing stragglers".
    """
    phases = account.phases
    parts = _slowest_of_step(phases) | {
        "fed_upload_s": max(map(_finite, phases.fed_upload_s), default=0.0),
        "fed_download_s": max(map(_finite, phases.fed_download_s), default=0.0),
        "link_s": _finite(phases.link_s),
        "server_steps_s": _finite(phases.server_steps_s),
    }
    rest = account.delay_s - sum(parts.values())
    return parts | {CHANGING: rest if rest > 1e-6 * account.delay_s else 0.0}


STEP_PHASES = tuple(PHASES)[:6]


def pipelines(phases: Phases) -> list[dict[str, float]]:
    """Where each client is served on its own: the phases of its steps, in order; empty where all are served together.

    >>> pipelines(Phases(client_forward_s=(1.0, 2.0), server_forward_s=(3.0, 4.0)))[1]
    {'client_forward_s': 2.0, 'server_forward_s': 4.0}
    """
    forward = phases.server_forward_s
    if not isinstance(forward, tuple):
        return []
    lists = {name: getattr(phases, name) for name in STEP_PHASES}
    known = {name: values for name, values in lists.items() if isinstance(values, tuple)}
    return [{n: _finite(values[k]) for n, values in known.items() if k < len(values)} for k in range(len(forward))]


def _slowest_of_step(phases: Phases) -> dict[str, float]:
    if own := pipelines(phases):
        return max(own, key=lambda parts: sum(parts.values()))
    forward, uplink = _slowest(phases.client_forward_s, phases.uplink_s)
    downlink, backward = _slowest(phases.downlink_s, phases.client_backward_s)
    return {
        "client_forward_s": forward,
        "uplink_s": uplink,
        "server_forward_s": _finite(phases.server_forward_s),
        "server_backward_s": _finite(phases.server_backward_s),
        "downlink_s": downlink,
        "client_backward_s": backward,
    }


def _slowest(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    pairs = [
        (_finite(first[k]) if k < len(first) else 0.0, _finite(second[k]) if k < len(second) else 0.0)
        for k in range(max(len(first), len(second)))
    ]
    return max(pairs, key=sum, default=(0.0, 0.0))


def _finite(value: float | tuple[float, ...]) -> float:
    return 0.0 if isinstance(value, tuple) or not math.isfinite(value) else value


def client_s(phases: Phases, k: int) -> dict[str, float]:
    """Seconds of each phase in which client k acts."""
    lists = {name: getattr(phases, name) for name in PHASES if of_clients(name)}
    return {name: values[k] for name, values in lists.items() if k < len(values)}


def of_clients(phase: str) -> bool:
    """Whether clients act in a phase, each for seconds of its own."""
    return phase.startswith(("client", "uplink", "downlink", "fed"))


def total_by_name(parts: Iterable[dict[str, float]]) -> dict[str, float]:
    """Sum dictionaries of numbers key by key.

    >>> total_by_name([{"a": 1.0}, {"a": 2.0, "b": 5.0}])
    {'a': 3.0, 'b': 5.0}
    """
    sums: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            sums[name] = sums.get(name, 0.0) + _finite(value)
    return sums


def total_critical_s(accounts: Iterable[Account]) -> dict[str, float]:
    """Seconds of each phase on the critical path, over all rounds whose delay is known."""
    return total_by_name(critical_s(one) for one in accounts if math.isfinite(one.delay_s))


def sent(bits: Bits) -> str:
    """What crossed the air in all, and beside it what crossed links that are not of the cell.

    >>> sent({"adapters_up": 8.0, "adapters_down": 8.0, "backhaul": 24.0}), sent({"adapters_side": 8.0})
    ('16 bit over the air and 24 bit over other links', '8 bit over other links')
    """
    across = sum(bits.get(kind, 0.0) for kind, (_, way) in BIT_KINDS.items() if way == "across")
    air = sum(bits.values()) - across
    words = [f"{fmt.bits(air)} over the air"] if air or not across else []
    return " and ".join([*words, *([f"{fmt.bits(across)} over other links"] if across else [])])


def total_list(lists: Iterable[Sequence[float]]) -> list[float]:
    """Sum lists position by position; a shorter list counts as zeros.

    >>> total_list([(1.0, 2.0), (3.0,)])
    [4.0, 2.0]
    """
    sums: list[float] = []
    for values in lists:
        sums += [0.0] * (len(values) - len(sums))
        for index, value in enumerate(values):
            sums[index] += _finite(value)
    return sums


def typical_round(rounds: Sequence[Round]) -> Round | None:
    """Round of the median charged delay, which stands for the run where one round is shown."""
    known = [record for record in rounds if math.isfinite(record.charged.delay_s)]
    if not known:
        return rounds[0] if rounds else None
    return sorted(known, key=lambda record: (record.charged.delay_s, record.round))[(len(known) - 1) // 2]


def straggler_counts(rounds: Sequence[Round]) -> list[tuple[tuple[int, str], int]]:
    """Return how often each (client, phase) was waited for longest, most often first."""
    return Counter((one.straggler.client, one.straggler.phase) for one in rounds if one.straggler).most_common()


@dataclass(frozen=True)
class Entry:
    """One quantity of the ledger; a NaN was not recorded."""

    name: str
    unit: str  # "bit" | "B" | "s" | "J"
    planned: float
    charged: float
    metered: float = math.nan

    @property
    def known(self) -> list[float]:
        """The values that were recorded."""
        return [value for value in (self.planned, self.charged, self.metered) if not math.isnan(value)]

    @property
    def difference(self) -> float:
        """Largest relative distance between two of the recorded values; NaN if fewer than two."""
        known = self.known
        if len(known) < 2:
            return math.nan
        spread, size = max(known) - min(known), max(map(abs, known))
        return 0.0 if spread == 0 else spread / size

    @property
    def verdict(self) -> str:
        """Equal, unequal or, with fewer than two values, unknown. Bits and bytes must agree to the last one."""
        if math.isnan(self.difference):
            return "unknown"
        return "equal" if self.difference <= (0.0 if self.unit in ("bit", "B") else EQUAL_TOLERANCE) else "unequal"


def ledger(rounds: Sequence[Round]) -> list[Entry]:
    """Planned, charged and metered bits, seconds and joules summed over all rounds."""
    planned, charged = [one.planned for one in rounds], [one.charged for one in rounds]
    metered = [one.metered_bits for one in rounds]
    bit_rows = _bit_entries([one.bits for one in planned], [one.bits for one in charged], metered)
    phase_rows = _entries("s", _phases_of(planned), _phases_of(charged))
    delay = Entry("delay", "s", *(finite_sum(one.delay_s for one in own) for own in (planned, charged)))
    energy_rows = _entries("J", _energy_of(planned), _energy_of(charged))
    energy = Entry("energy", "J", *(finite_sum(one.energy_j for one in own) for own in (planned, charged)))
    rows = (*bit_rows, delay, *phase_rows, energy, *energy_rows)
    return [entry for entry in rows if any(entry.known)]  # what nobody sent or spent needs no row


def _bit_entries(planned: list[Bits], charged: list[Bits], metered: list[Bits]) -> list[Entry]:
    columns = [_bit_totals(column) for column in (planned, charged, metered)]
    rows = [
        Entry(f"{way}link {what}", "bit", *(column.get(kind, math.nan) for column in columns))
        for kind, (what, way) in BIT_KINDS.items()
    ]
    return [Entry("all bits", "bit", *(sum(column.values()) if column else math.nan for column in columns)), *rows]


def _bit_totals(rounds: list[Bits]) -> Bits:
    """Totals over the rounds; where a column was recorded at all, an absent kind is 0 bits."""
    if not any(rounds):
        return {}
    return dict.fromkeys(BIT_KINDS, 0.0) | total_by_name(rounds)


def _phases_of(accounts: list[Account]) -> dict[str, float]:
    return {PHASES.get(name, name): value for name, value in total_critical_s(accounts).items()}


def _energy_of(accounts: list[Account]) -> dict[str, float]:
    return {
        "client compute": finite_sum(
            sum(one.energy.client_compute_j) for one in accounts if one.energy.client_compute_j
        ),
        "client radio": finite_sum(sum(one.energy.client_radio_j) for one in accounts if one.energy.client_radio_j),
        "server compute": finite_sum(one.energy.server_compute_j for one in accounts),
        "server radio": finite_sum(one.energy.server_radio_j for one in accounts),
    } | _standby_of(accounts)


def _standby_of(accounts: list[Account]) -> dict[str, float]:
    """What clients draw besides computing and amplifiers; none where nothing was recorded, or only zeros."""
    joules = sum(sum(one.energy.client_standby_j) for one in accounts)
    return {"client standby (not in energy)": joules} if joules > 0 else {}


def _entries(unit: str, planned: dict[str, float], charged: dict[str, float]) -> list[Entry]:
    names = dict.fromkeys([*planned, *charged])
    return [Entry(n, unit, planned.get(n, math.nan), charged.get(n, math.nan)) for n in names]


def finite_sum(values: Iterable[float]) -> float:
    """Sum of the known values; NaN if none is known.

    >>> finite_sum([1.0, math.nan, 2.0]), finite_sum([math.nan])
    (3.0, nan)
    """
    known = [value for value in values if not math.isnan(value)]
    return sum(known) if known else math.nan
