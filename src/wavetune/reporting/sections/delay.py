"""Where the time went: the timeline of a round, delay by phase and by round."""

import math
from collections.abc import Sequence
from functools import partial

from wavetune.records.reading import Run
from wavetune.records.rounds import Account, Round
from wavetune.reporting import format as fmt
from wavetune.reporting import story
from wavetune.reporting.accounts import total_critical_s, typical_round
from wavetune.reporting.bars import Bar, bar_chart, column_chart, numbers_of_bars
from wavetune.reporting.chart import Axis, Figure, figure
from wavetune.reporting.numbers import Numbers
from wavetune.reporting.sections.section import Section, make_section, phase_css, phase_keys, phase_name, phase_parts
from wavetune.reporting.timeline import MOST_ROWS, exchange_segments, step_segments, timeline

MOST_COLUMNS = 60


def delay(run: Run) -> Section:
    """Section on delay."""
    return make_section("Where the time went", "Delay", [_timeline_figure(run), _phase_figure(run), _round_figure(run)])


def _timeline_figure(run: Run) -> Figure | None:
    shown = typical_round(run.rounds)
    if not shown:
        return None
    names, step = story.client_names(run), shown.charged.step
    segments = [*step_segments(step), *exchange_segments(step)]
    keys = phase_keys([Bar("", phase_parts({one.phase: one.end_s - one.start_s for one in segments}))])
    steps = shown.charged.local_steps or run.summary.local_steps
    late = story.client_position(run, shown.straggler.client) if shown.straggler else None
    caption = _timeline_caption(run, shown, len(names))
    title = "Timeline of one round"
    rows = tuple(
        (dict(enumerate(names)).get(one.row, "server"), phase_name(one.phase), one.start_s, one.end_s)
        for one in segments
    )
    numbers = Numbers(("row", "phase", "start in its part of the round (s)", "end (s)"), rows)
    draw = partial(timeline, step, names, late, steps)
    return figure(title, draw, caption, keys, span="full", numbers=numbers)


def _timeline_caption(run: Run, shown: Round, num_clients: int) -> str:
    known = math.isfinite(shown.charged.delay_s)
    median = f", whose delay ({fmt.seconds(shown.charged.delay_s)}) is the median of the run" if known else ""
    words = [f"Round {shown.round + 1}{median}."]
    if shown.straggler:
        late = story.client_name(run, shown.straggler.client)
        words.append(f"▸ marks the straggler: {late}, in {phase_name(shown.straggler.phase)}.")
    if num_clients > MOST_ROWS:
        words.append(f"Shown are the {MOST_ROWS} of {num_clients} clients that are ready last.")
    return " ".join(words)


def _phase_figure(run: Run) -> Figure | None:
    parts = total_critical_s(one.charged for one in run.rounds)
    total = sum(parts.values())
    bars = [
        Bar(phase_name(phase), ((phase_css(phase), "", value),), f"{fmt.seconds(value)} · {fmt.percent(value / total)}")
        for phase, value in parts.items()
        if value > 0
    ]
    caption = "A phase counts for the client that the round waited for, so that the bars add up to the charged delay."
    title, numbers = "Delay by phase", numbers_of_bars(bars, "s")
    return figure(title, lambda px: bar_chart(bars, fmt.seconds, f"{title}, whole run", px), caption, numbers=numbers)


def _round_figure(run: Run) -> Figure | None:
    accounts = [(one.round + 1, one.charged) for one in run.rounds if math.isfinite(one.charged.delay_s)]
    size = math.ceil(len(accounts) / MOST_COLUMNS) or 1
    bars = [_round_bar(accounts[start : start + size]) for start in range(0, len(accounts), size)]
    caption = f"Means over {size} rounds each." if size > 1 else ""
    axis, title = Axis("delay", "s"), "Delay of each round"
    keys, numbers = phase_keys(bars), numbers_of_bars(bars, "s")
    return figure(title, lambda px: column_chart(bars, "round", axis, title, px), caption, keys, numbers=numbers)


def _round_bar(accounts: Sequence[tuple[int, Account]]) -> Bar:
    parts = total_critical_s(account for _, account in accounts)
    means = {phase: value / len(accounts) for phase, value in parts.items()}
    first, last = accounts[0][0], accounts[-1][0]
    name = f"Round {first}" if first == last else f"Rounds {first} to {last}"
    return Bar(name, phase_parts(means), tick=str(first))
