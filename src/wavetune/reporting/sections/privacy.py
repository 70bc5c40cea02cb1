"""What a run gave away of any one client, where updates were made private."""

import math

from wavetune.records.reading import Run
from wavetune.records.rounds import Spent
from wavetune.reporting import format as fmt
from wavetune.reporting.chart import Axis, Figure, Key, Table, figure
from wavetune.reporting.lines import Series, line_chart, numbers_of_lines
from wavetune.reporting.sections.section import Section, make_section

LOOKERS = {
    "epsilon": ("cat-0", "Whoever sees the mixture of every round"),
    "epsilon_client": ("cat-1", "Another client, who knows its own noise"),
    "epsilon_server": ("cat-3", "The federated server, who sees every update"),
}


def privacy(run: Run) -> Section:
    """Section on privacy, empty for a run without it."""
    spent = (
        run.summary.privacy
        if math.isfinite(run.summary.privacy.delta)
        else run.rounds[-1].privacy
        if run.rounds
        else Spent()
    )
    if not math.isfinite(spent.delta):
        return make_section("Privacy", "Privacy")
    rows = tuple((who, _shown(getattr(spent, name))) for name, (_, who) in LOOKERS.items())
    caption = f"Epsilon at delta {fmt.number(spent.delta)}, by who looks"
    words = (
        "Client-level differential privacy: how well someone could tell whether any one client's data was used. "
        "Losses and evaluations on this page are of a study and not covered by it."
    )
    return make_section("Privacy", "Privacy", [_figure(run)], [Table(caption, ("", "Epsilon"), rows)], words)


def _figure(run: Run) -> Figure | None:
    spent = [(record.round + 1.0, record.privacy) for record in run.rounds]
    series = [
        Series(who, css, [(x, getattr(one, name)) for x, one in spent])
        for name, (css, who) in LOOKERS.items()
        if any(math.isfinite(getattr(one, name)) for _, one in spent)
    ]
    keys, title = tuple(Key(one.css, one.label, "line") for one in series), "Epsilon after each round"
    axes = Axis("round", whole=True), Axis("epsilon")
    numbers = numbers_of_lines(series, *axes)
    return figure(title, lambda px: line_chart(series, *axes, title, px), keys=keys, numbers=numbers)


def _shown(epsilon: float) -> str:
    return fmt.number(epsilon) if math.isfinite(epsilon) else "none guaranteed"
