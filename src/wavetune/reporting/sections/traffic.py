"""Bits by kind and direction, joules by client, and planned against charged against metered."""

import math

from wavetune.records.reading import Run
from wavetune.records.rounds import BIT_KINDS
from wavetune.reporting import format as fmt
from wavetune.reporting import story
from wavetune.reporting.accounts import TOTALS, Entry, finite_sum, ledger, total_by_name, total_list
from wavetune.reporting.bars import Bar, bar_chart, numbers_of_bars
from wavetune.reporting.chart import Axis, Figure, Key, Table, figure
from wavetune.reporting.sections.section import MOST_BARS, Section, at, client_figure, make_section

ARROW = {"up": "↑", "down": "↓", "across": "↔"}
SHOW = {"bit": fmt.bits, "B": fmt.byte_size, "s": fmt.seconds, "J": fmt.joules}


def traffic(run: Run) -> Section:
    """Section on bits and joules."""
    return make_section("Traffic and energy", "Traffic", [_bits_figure(run), _energy_figure(run)])


def _bits_figure(run: Run) -> Figure | None:
    bits = total_by_name(record.charged.bits for record in run.rounds) or run.summary.bits
    total = sum(bits.values())
    bars = [
        Bar(
            f"{what} {ARROW[way]}",
            (("way-down" if way == "down" else "way-up", "", bits[kind]),),
            f"{fmt.bits(bits[kind])} · {fmt.percent(bits[kind] / total)}",
        )
        for kind, (what, way) in BIT_KINDS.items()
        if bits.get(kind, 0) > 0
    ]
    keys = (Key("way-up", "uplink ↑"), Key("way-down", "downlink ↓"))
    title, caption = "Bits by kind and direction", "Whole run."
    numbers = numbers_of_bars(bars, "bit")
    return figure(title, lambda px: bar_chart(bars, fmt.bits, title, px), caption, keys, numbers=numbers)


def _energy_figure(run: Run) -> Figure | None:
    energies = [record.charged.energy for record in run.rounds]
    compute = total_list(one.client_compute_j for one in energies)
    radio = total_list(one.client_radio_j for one in energies)
    bars = [_energy_bar(name, at(compute, k), at(radio, k)) for k, name in enumerate(story.client_names(run))]
    server = (finite_sum(one.server_compute_j for one in energies), finite_sum(one.server_radio_j for one in energies))
    caption = "Whole run: computing, and what the radios' amplifiers draw."
    if len(bars) > MOST_BARS:  # columns of clients leave no room for the server, which may dwarf them
        caption += f" The server took {fmt.joules(server[0])} to compute and {fmt.joules(server[1])} to send."
    elif sum(server) > 0:
        bars.append(_energy_bar("server", *server))
    keys = (Key("energy-compute", "compute"), Key("energy-radio", "radio"))
    return client_figure("Energy", bars, Axis("energy", "J"), caption, keys)


def _energy_bar(name: str, compute_j: float, radio_j: float) -> Bar:
    parts = (("energy-compute", "compute", compute_j), ("energy-radio", "radio", radio_j))
    return Bar(name, parts, fmt.joules(compute_j + radio_j))


def accounts(run: Run) -> Section:
    """Section that sets planned, charged and metered side by side."""
    entries = ledger(run.rounds)
    verdicts = [entry.verdict for entry in entries]
    equal, compared = verdicts.count("equal"), len(entries) - verdicts.count("unknown")
    words = (
        f"{equal} of {compared} quantities agree. Metered bits are those that passed the encoder. Bits are equal when "
        "they agree to the last one, seconds and joules when they agree to nine digits."
    )
    rows = tuple(account_row(entry) for entry in entries)
    totals = frozenset(index for index, entry in enumerate(entries) if entry.name in TOTALS)
    head = ("Quantity", "Verdict", "Planned", "Charged", "Metered")
    table = Table("Planned, charged and metered, whole run", head, rows, totals, "grouped")
    return make_section("Planned, charged, metered", "Accounts", [], [table], words)


def account_row(entry: Entry) -> tuple[str, ...]:
    """Cells of a quantity: its name, the verdict, the three amounts."""
    verdict = {"equal": "✓ equal", "unequal": f"✗ unequal, {fmt.percent(entry.difference)}", "unknown": fmt.DASH}
    amounts = (entry.planned, entry.charged, entry.metered)
    shown = (fmt.DASH if math.isnan(amount) else SHOW[entry.unit](amount) for amount in amounts)
    return (entry.name, verdict[entry.verdict], *shown)
