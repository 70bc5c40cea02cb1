"""Several runs side by side: a table of headline numbers and overlaid loss curves."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from wavetune.estimate import finite_mean
from wavetune.reporting import format as fmt
from wavetune.reporting import story
from wavetune.reporting.chart import Axis, Figure, Key, Table, figure
from wavetune.reporting.lines import Point, Series, line_chart, thin
from wavetune.reporting.mixture import mixed_reward
from wavetune.reporting.records import Change, Run
from wavetune.reporting.sections.learning import AGAINST, elapsed_s, positions, validation_points
from wavetune.reporting.sections.section import Section, make_section

BEST = "★"


def compare(runs: Sequence[Run], labels: Sequence[str]) -> Section:
    """Section that sets runs side by side."""
    figures = [_curves(runs, labels, *against) for against in AGAINST]
    words = f"{BEST} marks the best of a row; fewer seconds, bits and joules are better. "
    if _differ(runs):
        words += "Runs with personal models and runs with one model for all are compared on each client's own domains."
    else:
        words += "Runs of different length compare best by the simulated time to a common loss."
    return make_section("Comparison", "Comparison", figures, [_headlines(runs, labels)], words)


def _curves(runs: Sequence[Run], labels: Sequence[str], axis: Axis, against: str) -> Figure | None:
    points_of, whose = (_own_points, "Own-domain") if _differ(runs) else (validation_points, "Validation")
    series = [
        Series(label, f"cat-{index % 8} dash-{index % 4}", points_of(run, axis))
        for index, (run, label) in enumerate(zip(runs, labels, strict=True))
    ]
    series = [one for one in series if thin(one.points)]
    keys = tuple(Key(one.css, one.label, "line") for one in series)
    title = f"{whose} loss against {against}"
    return figure(title, lambda px: line_chart(series, axis, Axis("loss"), title, px), keys=keys)


def _differ(runs: Sequence[Run]) -> bool:
    """Whether the runs' validation losses are of unlike things: of personal models on own rows, of one on all rows."""
    return len({run.summary.personal for run in runs}) > 1


def _own_points(run: Run, axis: Axis) -> list[Point]:
    """(x, mean of the clients' losses on own domains) from before the first round on."""
    losses = [finite_mean(record.evaluation.own_loss_K) for record in run.rounds]
    before = finite_mean(run.summary.evaluation.before.own_loss_K)
    return [(0.0, before), *zip(positions(run, axis), losses, strict=True)]


def _headlines(runs: Sequence[Run], labels: Sequence[str]) -> Table:
    costs, losses, plans = (
        [story.totals(run) for run in runs],
        [Change() if _differ(runs) else story.loss_change(run) for run in runs],
        [run.summary.plan for run in runs],
    )
    after = [run.summary.evaluation.after for run in runs]
    target = max((loss.after for loss in losses if math.isfinite(loss.after)), default=math.nan)
    rows: list[tuple[str, ...]] = [
        ("Status", *(run.summary.status or "no summary" for run in runs)),
        ("Method", *(run.summary.method or fmt.DASH for run in runs)),
        ("Clients", *(fmt.count(len(story.client_names(run)) or None) for run in runs)),
        ("Rounds", *(fmt.count(len(run.rounds)) for run in runs)),
        (
            "Cut, rank",
            *(f"{story.same_or_range(story.cuts(run))}, {story.same_or_range(story.ranks(run))}" for run in runs),
        ),
        _ranked("Accuracy", [math.nan if _differ(runs) else j.accuracy for j in after], fmt.percent, best=max),
        _ranked("Accuracy, own domains", [finite_mean(j.own_accuracy_K) for j in after], fmt.percent, best=max),
        _ranked("Accuracy, foreign domains", [finite_mean(j.foreign_accuracy_K) for j in after], fmt.percent, best=max),
        _ranked("Loss, own domains", [finite_mean(j.own_loss_K) for j in after], lambda value: fmt.number(value, 4)),
        _ranked("Mixed reward (sd)", _mixed_rewards(runs), fmt.number, best=max),
        _ranked("True mixed score", [_aligned(run, "true_mixed_K") for run in runs], fmt.number, best=max),
        _ranked("Validation loss", [loss.after for loss in losses], lambda value: fmt.number(value, 4)),
        _ranked("Perplexity", [_perplexity(*pair) for pair in zip(runs, losses, strict=True)], fmt.number),
        _ranked("Simulated time", [cost.delay_s for cost in costs], fmt.seconds),
        _ranked(
            f"Simulated time to loss {fmt.number(target, 4)}",
            [time_to_loss_s(run, target) for run in runs],
            fmt.seconds,
        ),
        _ranked("Planned delay", [plan.delay_s for plan in plans], fmt.seconds),
        _ranked("Gap to lower bound", [_gap(plan.delay_s, plan.lower_bound_s) for plan in plans], fmt.percent),
        _ranked("Energy", [cost.energy_j for cost in costs], fmt.joules),
        _ranked("Upload of a client and round", [story.upload_bits(run)[0] for run in runs], fmt.bits),
        _ranked("Uplink", [cost.up_bits for cost in costs], fmt.bits),
        _ranked("Downlink", [cost.down_bits for cost in costs], fmt.bits),
    ]
    known = [row for row in rows if any(cell != fmt.DASH for cell in row[1:])]
    return Table("Headline numbers", ("", *labels), tuple(known), kind="compare")


def time_to_loss_s(run: Run, target: float) -> float:
    """Simulated time of the first round whose validation loss is at most `target`; NaN if none is."""
    ends = zip(elapsed_s(run.rounds), run.rounds, strict=True)
    return next((end for end, record in ends if record.validation_loss <= target), math.nan)


def _perplexity(run: Run, loss: Change) -> float:
    return math.nan if story.is_classifier(run) else story.perplexity(loss.after)


def _aligned(run: Run, name: str) -> float:
    """Mean over clients of a score of held-out prompts."""
    return finite_mean(run.summary.alignment.after.get(name, ()))


def _mixed_rewards(runs: Sequence[Run]) -> list[float]:
    """Mixed rewards in one unit, the spread of the first run's answers before alignment."""
    infos = [run.summary.alignment for run in runs]
    scale = next((info.scale for info in infos if info.scale), {})
    return [mixed_reward(info.after, info.lambdas, scale) for info in infos]


def _gap(delay_s: float, bound_s: float) -> float:
    return delay_s / bound_s - 1 if bound_s > 0 else math.nan


def _ranked(
    name: str,
    values: Sequence[float],
    show: Callable[[float], str],
    best: Callable[[Sequence[float]], float] = min,
) -> tuple[str, ...]:
    """Row of numbers with the best one marked, unless all are alike."""
    known = [value for value in values if math.isfinite(value)]
    marked = best(known) if len(set(known)) > 1 else math.nan
    return (name, *(f"{BEST} {show(value)}" if value == marked else show(value) for value in values))
