"""The plan: its delay beside the baselines and the lower bound."""

import math

from wavetune.records.reading import Run
from wavetune.records.rounds import Phases
from wavetune.reporting import format as fmt
from wavetune.reporting.accounts import BESIDE, PHASES
from wavetune.reporting.bars import Bar, bar_chart, numbers_of_bars
from wavetune.reporting.chart import Figure, figure
from wavetune.reporting.sections.section import Section, make_section


def plan(run: Run) -> Section:
    """Section on the plan."""
    info = run.summary.plan
    bars = [Bar(info.method or "this plan", (("cat-0", "", info.delay_s),), fmt.seconds(info.delay_s))]
    bars += [
        Bar(name, (("muted", "", delay_s),), _against(delay_s, info.delay_s))
        for name, delay_s in info.baselines.items()
    ]
    known = [bar for bar in bars if math.isfinite(bar.parts[0][2])]
    bound_s = info.lower_bound_s
    mark = (bound_s, f"lower bound {fmt.seconds(bound_s)}") if bound_s > 0 else None
    words = f"No feasible plan can beat {fmt.seconds(bound_s)}" if mark else ""
    if mark and info.delay_s > 0:
        words += f"; this plan is within {fmt.percent(info.delay_s / bound_s - 1)} of it"
    title = "Planned delay against baselines"
    sentences = [f"{words}."] if words else []
    if (rounds := _rounds(run)) is not None:
        sentences.insert(0, f"Delays are of {fmt.number(rounds)} rounds, as many as the plan counts.")
    caption = " ".join(sentences)
    numbers = numbers_of_bars(known, "s", mark)
    drawn = figure(
        title, lambda px: bar_chart(known, fmt.seconds, title, px, mark), caption, span="full", numbers=numbers
    )
    return make_section(
        "Plan and baselines", "Plan", [drawn if known else None, _savings(info.savings)], words=_where_time_goes(run)
    )


def _where_time_goes(run: Run) -> str:
    """The plan's bottleneck, and what a round takes that no plan has."""
    words, phases = run.summary.plan.bottleneck, run.rounds[0].planned.phases if run.rounds else Phases()
    beside_s = {name: getattr(phases, name) for name in BESIDE}
    told = [f"{PHASES[name]} {fmt.seconds(spent)}" for name, spent in beside_s.items() if spent > 0]
    return f"{words} Beside the plan a round takes: {', '.join(told)}.".strip() if told else words


def _rounds(run: Run) -> float | None:
    """How many rounds the plan counts, where the run was not planned for as many."""
    rounds, run_rounds = run.summary.plan.rounds, run.summary.rounds
    return rounds if math.isfinite(rounds) and run_rounds and not math.isclose(rounds, run_rounds) else None


def _savings(savings: dict[str, float]) -> Figure | None:
    """What 10 % more of each resource would save, the best first."""
    bars = [
        Bar(name, (("cat-1", "", saving),), fmt.percent(saving))
        for name, saving in sorted(savings.items(), key=lambda item: -item[1])
        if saving > 0
    ]
    title = "What 10 % more would save"
    caption = "Share of the planned delay that goes away when one resource grows by 10 % and all is planned again."
    numbers = numbers_of_bars(bars, "share")
    return figure(title, lambda px: bar_chart(bars, fmt.percent, title, px), caption, span="full", numbers=numbers)


def _against(delay_s: float, plan_s: float) -> str:
    gain = f" ({fmt.percent(delay_s / plan_s - 1, signed=True)})" if plan_s > 0 else ""
    return fmt.seconds(delay_s) + gain
