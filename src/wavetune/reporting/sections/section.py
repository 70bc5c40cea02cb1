"""A section of the report, and what several sections share."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from wavetune.records.summary import Sample
from wavetune.reporting.accounts import CHANGING, PHASES
from wavetune.reporting.bars import Bar, Part, bar_chart, column_chart, numbers_of_bars
from wavetune.reporting.chart import Axis, Figure, Key, Table, figure

MOST_BARS = 16


@dataclass(frozen=True)
class Section:
    """A heading, its short name for the navigation, its words, charts and tables."""

    anchor: str
    title: str
    short: str
    words: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    samples: tuple[Sample, ...] = ()

    @property
    def about(self) -> str:
        """What is in it, by the titles of its charts and tables."""
        return " · ".join([*(one.title for one in self.figures), *(one.caption for one in self.tables)])


def make_section(
    title: str, short: str, figures: Iterable[Figure | None] = (), tables: Iterable[Table] = (), words: str = ""
) -> Section:
    """Section of those charts and tables that have something to show."""
    return Section(
        anchor=short.lower(),
        title=title,
        short=short,
        words=(words,) if words else (),
        figures=tuple(paired([one for one in figures if one])),
        tables=tuple(table for table in tables if table.rows),
    )


def paired(figures: Sequence[Figure]) -> list[Figure]:
    """Let a chart that has no neighbour in the two columns take the whole row."""
    placed: list[Figure] = []
    cells = 0  # a tall chart stands beside two others
    for index, one in enumerate(figures):
        cells += {"half": 1, "tall": 2, "full": 0}[one.span]
        ends = index + 1 == len(figures) or figures[index + 1].span == "full"
        placed.append(replace(one, span="solo") if ends and one.span == "half" and cells % 2 else one)
        cells = 0 if ends else cells
    return placed


def client_figure(
    title: str, bars: Sequence[Bar], axis: Axis, caption: str, keys: tuple[Key, ...] = ()
) -> Figure | None:
    """One horizontal bar for each client or, where that would fill a screen, one column."""
    numbers = numbers_of_bars(bars, axis.unit)
    if len(bars) > MOST_BARS:
        return figure(title, lambda px: column_chart(bars, "client", axis, title, px), caption, keys, numbers=numbers)
    return figure(title, lambda px: bar_chart(bars, axis.show, title, px), caption, keys, numbers=numbers)


def phase_css(phase: str) -> str:
    """Colour class of a phase."""
    return "phase-rest" if phase == CHANGING else f"phase-{phase}"


def phase_name(phase: str) -> str:
    """Name of a phase, with or without its unit suffix.

    >>> phase_name("uplink_s"), phase_name("client_forward")
    ('uplink', 'client forward')
    """
    return PHASES.get(phase) or PHASES.get(f"{phase}_s") or phase


def phase_parts(seconds: dict[str, float]) -> tuple[Part, ...]:
    """Parts of a bar, one for each phase."""
    return tuple((phase_css(phase), phase_name(phase), value) for phase, value in seconds.items())


def phase_keys(bars: Iterable[Bar]) -> tuple[Key, ...]:
    """Legend of the phases that occur in bars."""
    return tuple(dict.fromkeys(Key(css, name) for bar in bars for css, name, _ in bar.drawn))


def at(values: Sequence[float], k: int, otherwise: float = 0.0) -> float:
    """Value of client k, or what stands for a list that ends before."""
    return values[k] if k < len(values) else otherwise
