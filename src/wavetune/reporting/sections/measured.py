"""What a deployed run measured beside the plan and the charge: seconds and bytes, by phase or kind and by client."""

import math
from collections.abc import Iterable, Sequence

from markupsafe import Markup

from wavetune.estimate import finite_mean
from wavetune.records.reading import Run
from wavetune.records.rounds import BIT_KINDS, Round
from wavetune.reporting import format as fmt
from wavetune.reporting import story
from wavetune.reporting.accounts import (
    PHASES,
    Entry,
    finite_sum,
    of_clients,
    total_by_name,
    total_list,
)
from wavetune.reporting.chart import Figure, Key, Table, figure
from wavetune.reporting.grouped import Group, grouped_chart, numbers_of_groups
from wavetune.reporting.sections.section import MOST_BARS, Section, at, make_section, phase_name
from wavetune.reporting.sections.traffic import account_row

COLUMNS = {"planned": "pale cat-0", "charged": "cat-0", "measured": "cat-1"}
UPLOADS = ("uplink_s", "fed_upload_s")
BY_FACTOR = "The scale is logarithmic: equal distances are equal factors."
WORDS = (
    "Uploads take the seconds of the plan where streams were paced to its rates (--emulate), and downloads too where "
    "the plan prices them; without that they take what this network takes. Seconds of computing are those of the "
    "machines that really computed, planned are those of the recipe's devices: these need not agree. Bytes sent are "
    "those predicted unless a device was lost on the way; frames add names, shapes and lengths."
)


def measured(run: Run) -> Section:
    """Section on what was measured; empty where nothing was."""
    rounds = [one for one in run.rounds if math.isfinite(one.measured.wall_s)]
    if not rounds:
        return Section("measured", "", "")
    names = story.client_names(run)
    seconds = {phase: columns for phase in PHASES if any(map(any, columns := _seconds(rounds, phase)))}
    of_run = "whole run" if len(rounds) == len(run.rounds) else f"{len(rounds)} of {len(run.rounds)} rounds"
    tables = (_seconds_table(rounds, seconds, names), _kinds_table(rounds), _clients_table(rounds, names))
    groups = [_group(phase_name(phase), map(finite_mean, columns)) for phase, columns in seconds.items()]
    by_phase = _grouped("Seconds by phase", groups, f"Mean of the clients. {BY_FACTOR}")
    return make_section(
        f"Planned, charged, measured: {of_run}",
        "Measured",
        [by_phase, _upload_figure(rounds, names)],
        tables,
        WORDS,
    )


def _seconds(rounds: Sequence[Round], phase: str) -> list[list[float]]:
    """Planned, charged and measured seconds of a phase over the rounds, each by client, or of the server alone."""
    return [total_list(_listed(phase, getattr(getattr(one, c).phases, phase)) for one in rounds) for c in COLUMNS]


def _listed(phase: str, value: float | tuple[float, ...]) -> tuple[float, ...]:
    """Values by client; of the server, which may serve clients side by side, until the last of them is served."""
    if isinstance(value, tuple):
        return (max(value, default=0.0),) if phase.startswith("server") else value
    return (value,)


def _upload_figure(rounds: Sequence[Round], names: Sequence[str]) -> Figure | None:
    if len(names) > MOST_BARS:
        return None
    columns = [total_list(both) for both in zip(*(_seconds(rounds, phase) for phase in UPLOADS), strict=True)]
    groups = [_group(name, (at(values, k) for values in columns)) for k, name in enumerate(names)]
    return _grouped("Seconds of uploads by client", groups, f"What local steps and adapters send up. {BY_FACTOR}")


def _group(name: str, values: Iterable[float]) -> Group:
    return Group(name, tuple((css, column, v) for (column, css), v in zip(COLUMNS.items(), values, strict=True)))


def _grouped(title: str, groups: Sequence[Group], caption: str) -> Figure | None:
    keys = tuple(Key(css, column) for column, css in COLUMNS.items())
    numbers = numbers_of_groups(groups, "s")

    def draw(width: int) -> Markup | None:
        return grouped_chart(groups, fmt.seconds, title, width, by_factor=True)

    return figure(title, draw, caption, keys, numbers=numbers)


def _seconds_table(rounds: Sequence[Round], seconds: dict[str, list[list[float]]], names: Sequence[str]) -> Table:
    delays = [finite_sum(one.planned.delay_s for one in rounds), finite_sum(one.charged.delay_s for one in rounds)]
    rows, totals = [_seconds_row("whole rounds", [*delays, finite_sum(one.measured.wall_s for one in rounds)])], {0}
    for phase, columns in seconds.items():
        own = of_clients(phase)
        totals.add(len(rows))
        name = f"{phase_name(phase)}, mean" if own else phase_name(phase)
        rows.append(_seconds_row(name, [finite_mean(values) for values in columns]))
        if own and len(names) <= MOST_BARS:
            rows += [_seconds_row(name, [at(values, k) for values in columns]) for k, name in enumerate(names)]
    head = ("Phase and client", "Planned", "Charged", "Measured", "Measured / planned")
    return Table("Seconds by phase and client", head, tuple(rows), frozenset(totals), "grouped")


def _seconds_row(name: str, values: Sequence[float]) -> tuple[str, ...]:
    planned, _, really = values
    return (name, *map(fmt.seconds, values), fmt.number(really / planned) if planned > 0 else fmt.DASH)


def _kinds_table(rounds: Sequence[Round]) -> Table:
    predicted = _bytes(total_by_name(one.planned.bits for one in rounds))
    charged = _bytes(total_by_name(one.charged.bits for one in rounds))
    sent = total_by_name(one.measured.payload_bytes for one in rounds)
    columns = (predicted, charged, sent)
    framing = finite_sum(one.measured.framing_bytes for one in rounds)
    entries = [
        Entry("payload", "B", *(sum(column.values()) for column in columns)),
        *(
            Entry(f"{way}link {what}", "B", *(column.get(kind, 0.0) for column in columns))
            for kind, (what, way) in BIT_KINDS.items()
            if any(kind in column for column in columns)
        ),
        Entry("framing", "B", math.nan, math.nan, framing),
    ]
    head, rows = ("Kind", "Verdict", "Predicted", "Charged", "Sent"), tuple(account_row(entry) for entry in entries)
    return Table("Bytes by kind", head, rows, frozenset({0, len(rows) - 1}), "grouped")


def _bytes(bits: dict[str, float]) -> dict[str, float]:
    return {kind: amount / 8 for kind, amount in bits.items()}


def _clients_table(rounds: Sequence[Round], names: Sequence[str]) -> Table:
    rows, totals = list[tuple[str, ...]](), list[int]()
    for way in ("up", "down"):
        planned, charged = (
            [bits / 8 for bits in total_list(getattr(getattr(one, c), f"bits_{way}_K") for one in rounds)]
            for c in ("planned", "charged")
        )
        frames = total_list(getattr(one.measured, f"frame_bytes_{way}_K") for one in rounds)
        totals.append(len(rows))
        rows.append(_bytes_row(f"{way}link, all clients", *map(finite_sum, (planned, charged, frames))))
        if len(names) <= MOST_BARS:
            columns = (planned, charged, frames)
            rows += [_bytes_row(name, *(at(c, k, math.nan) for c in columns)) for k, name in enumerate(names)]
    head = ("Way and client", "Planned", "Charged", "Sent in frames", "Framing")
    return Table("Bytes by client", head, tuple(rows), frozenset(totals), "grouped")


def _bytes_row(name: str, planned: float, charged: float, frames: float) -> tuple[str, ...]:
    framing = frames / charged - 1 if charged > 0 else math.nan
    return (name, *map(fmt.byte_size, (planned, charged, frames)), fmt.percent(framing, signed=True))
