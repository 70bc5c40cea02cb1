"""How good each client's model is on its own and on foreign domains, what it uploads, and which uploads were lost."""

import math
from collections.abc import Sequence

from wavetune.estimate import finite_mean
from wavetune.records.reading import Run
from wavetune.records.rounds import Lost
from wavetune.reporting import format as fmt
from wavetune.reporting import story
from wavetune.reporting.bars import Bar, Show, bar_chart, column_chart, numbers_of_bars
from wavetune.reporting.chart import Axis, Figure, Key, Table, figure
from wavetune.reporting.grouped import Group, grouped_chart, numbers_of_groups
from wavetune.reporting.sections.section import MOST_BARS, Section, at, make_section

KINDS = (
    ("own", "before", "pale cat-0"),
    ("own", "after", "cat-0"),
    ("foreign", "before", "pale cat-1"),
    ("foreign", "after", "cat-1"),
)
MEAN = "mean"
MOST_LOST = 40


def personal(run: Run) -> Section:
    """Section on the clients' own models; where there is one model for all, on the updates that did not arrive."""
    if not run.summary.personal:
        return make_section("Lost updates", "Lost", [], [_lost_table(run)])
    figures = [_domains_figure(run), _upload_figure(run), _uplink_figure(run)]
    words = (
        "Every client has a model of its own. Its own domains count as often as in its training data, foreign ones by "
        "what is missing there to an equal share of all."
    )
    made = make_section("Personal models", "Personal", figures, [_lost_table(run)], words)
    return made if figures[0] or made.tables else Section(made.anchor, made.title, made.short)


def _domains_figure(run: Run) -> Figure | None:
    judged = run.summary.evaluation
    measure = "accuracy" if judged.after.own_accuracy_K else "loss"
    lists = {(w, when): getattr(getattr(judged, when), f"{w}_{measure}_K") for w, when, _ in KINDS}
    if len(lists["own", "after"]) < 2 or not any(map(math.isfinite, lists["foreign", "after"])):
        return None
    show: Show = fmt.percent if measure == "accuracy" else lambda value: fmt.number(value, 4)
    names = story.client_names(run)
    groups = [_group(MEAN, [finite_mean(lists[w, when]) for w, when, _ in KINDS])]
    if len(names) <= MOST_BARS:
        groups += [
            _group(name, [at(lists[w, when], k, math.nan) for w, when, _ in KINDS]) for k, name in enumerate(names)
        ]
    keys = tuple(Key(css, f"{whose} domains, {when}") for whose, when, css in KINDS)
    rows = tuple(
        (name, *(show(at(lists[w, when], k, math.nan)) for w, when, _ in KINDS)) for k, name in enumerate(names)
    )
    table = Table(title := f"{measure.capitalize()} on own and foreign domains", _HEAD, rows)
    caption = (
        f"Validation rows; {'more' if measure == 'accuracy' else 'less'} is better. The mean counts clients alike, "
        "the headline by its samples."
    )
    numbers = numbers_of_groups(groups, measure)
    return figure(title, lambda px: grouped_chart(groups, show, title, px), caption, keys, table, "full", numbers)


_HEAD = ("Client", *(f"{whose.capitalize()}, {when}" for whose, when, _ in KINDS))


def _group(name: str, values: Sequence[float]) -> Group:
    return Group(name, tuple((css, f"{w} {when}", v) for (w, when, css), v in zip(KINDS, values, strict=True)))


def _upload_figure(run: Run) -> Figure | None:
    """One client's upload beside what other rules of sharing would send."""
    sent, every, full = story.upload_bits(run)
    if not sent > 0:
        return None
    others = [("all of its adapters", every), ("whole model, fp32", full)]
    bars = [Bar("what is shared", (("way-up", "", sent),), fmt.bits(sent))]
    bars += [
        Bar(name, (("muted", "", value),), f"{fmt.bits(value)}: {fmt.percent(1 - sent / value)} saved")
        for name, value in others
        if value > sent
    ]
    title = "One client's upload in a round"
    caption = "Mean over clients, counted by the codec of the adapters. What is private never leaves its client."
    return figure(title, lambda px: bar_chart(bars, fmt.bits, title, px), caption, numbers=numbers_of_bars(bars, "bit"))


def _uplink_figure(run: Run) -> Figure | None:
    bars = [
        Bar(f"Round {one.round + 1}", (("way-up", "", bits),), tick=str(one.round + 1))
        for one in run.rounds
        if (bits := one.metered_bits.get("adapters_up", math.nan)) > 0
    ]
    title, axis = "Adapters sent up in each round", Axis("all clients", "bit")
    caption = "Metered bits; a client in outage does not send."
    return figure(
        title, lambda px: column_chart(bars, "round", axis, title, px), caption, numbers=numbers_of_bars(bars, "bit")
    )


def _lost_table(run: Run) -> Table:
    lost = [(one.round + 1, entry) for one in run.rounds for entry in one.lost]
    rows = tuple((f"Round {number}", story.client_name(run, e.client), _why(e)) for number, e in lost)
    more = f"; the first {MOST_LOST} of {len(rows)}" if len(rows) > MOST_LOST else ""
    return Table(f"Updates that did not arrive{more}", ("", "Client", "Why"), rows[:MOST_LOST])


def _why(lost: Lost) -> str:
    """What was seen, and what the client says itself."""
    return f"{lost.why or fmt.DASH}{f' (it says: {lost.claim})' if lost.claim else ''}"
