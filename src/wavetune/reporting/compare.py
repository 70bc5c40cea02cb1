"""Several runs side by side: a table of headline numbers and overlaid loss curves."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wavetune.estimate import finite_mean
from wavetune.records.reading import Run
from wavetune.records.rounds import Phases
from wavetune.records.summary import Change, PlanInfo
from wavetune.reporting import format as fmt
from wavetune.reporting import story
from wavetune.reporting.accounts import BESIDE
from wavetune.reporting.chart import Axis, Figure, Key, Table, figure
from wavetune.reporting.lines import Point, Series, line_chart, numbers_of_lines, thin
from wavetune.reporting.mixture import mixed_reward
from wavetune.reporting.sections.learning import AGAINST, elapsed_s, positions, validation_points
from wavetune.reporting.sections.section import Section, make_section

BEST = "★"


@dataclass(frozen=True)
class Ranking:
    """Which runs may be ranked with each other: those of one group number; None is ranked with nobody."""

    groups: tuple[object, ...]

    def row(
        self,
        name: str,
        values: Sequence[float],
        show: Callable[[float], str],
        best: Callable[[Sequence[float]], float] = min,
    ) -> tuple[str, ...]:
        """Row of numbers with the best one of each group marked, unless all of the group are alike."""
        known: dict[object, list[float]] = {}
        for group, value in zip(self.groups, values, strict=True):
            if group is not None and math.isfinite(value):
                known.setdefault(group, []).append(value)
        marked = {group: best(own) for group, own in known.items() if len(set(own)) > 1}
        cells = zip(self.groups, values, strict=True)
        return (
            name,
            *(f"{BEST} {show(value)}" if value == marked.get(group) else show(value) for group, value in cells),
        )


def compare(runs: Sequence[Run], labels: Sequence[str]) -> Section:
    """Section that sets runs side by side."""
    kinds = [_kind(run) for run in runs]
    alike = [index for index, kind in enumerate(kinds) if kind == max(kinds, key=kinds.count)]
    drawn = alike if len(alike) > 1 else []
    figures = [_curves([runs[i] for i in drawn], [labels[i] for i in drawn], *against) for against in AGAINST]
    words = f"{BEST} marks the best of a row; fewer seconds, bits and joules are better. "
    unlike = [name for name, values in zip(KIND, zip(*kinds, strict=True), strict=True) if len(set(values)) > 1]
    if unlike:
        words += (
            f"These runs differ in {' and '.join(unlike)}, so that their losses and costs say nothing about each "
            "other: only runs that are alike in model, data and task are ranked with each other and drawn together. "
        )
    if any(map(story.is_central, runs)):
        words += "What a run in one place took is not ranked: moving all data there is not charged. "
    if _differ(runs):
        words += "Runs with personal models and runs with one model for all are compared on each client's own domains."
    else:
        words += "Runs of different length compare best by the simulated time to a common loss."
    return make_section("Comparison", "Comparison", figures, [_headlines(runs, labels, kinds)], words)


KIND = ("model", "data", "task")


def _kind(run: Run) -> tuple[str, str, str]:
    """What must be the same for two runs' numbers to be compared: model, data and task."""
    model = run.summary.model.name or str(story.setting(run, "world", "model") or "")
    data = run.summary.data.name or str(story.setting(run, "world", "data", "source") or "")
    return model, data, "classes" if story.is_classifier(run) else "text"


def _curves(runs: Sequence[Run], labels: Sequence[str], axis: Axis, against: str) -> Figure | None:
    points_of, whose = (_own_points, "Own-domain") if _differ(runs) else (validation_points, "Validation")
    series = [
        Series(label, f"cat-{index % 8} dash-{index % 4}", points_of(run, axis))
        for index, (run, label) in enumerate(zip(runs, labels, strict=True))
    ]
    series = [one for one in series if thin(one.points)]
    keys = tuple(Key(one.css, one.label, "line") for one in series)
    title = f"{whose} loss against {against}"
    numbers = numbers_of_lines(series, axis, Axis("loss"))
    return figure(title, lambda px: line_chart(series, axis, Axis("loss"), title, px), keys=keys, numbers=numbers)


def _differ(runs: Sequence[Run]) -> bool:
    """Whether the runs' validation losses are of unlike things: of personal models on own rows, of one on all rows."""
    return len({run.summary.personal for run in runs}) > 1


def _own_points(run: Run, axis: Axis) -> list[Point]:
    """(x, mean of the clients' losses on own domains) from before the first round on."""
    losses = [finite_mean(record.evaluation.own_loss_K) for record in run.rounds]
    before = finite_mean(run.summary.evaluation.before.own_loss_K)
    return [(0.0, before), *zip(positions(run, axis), losses, strict=True)]


def _headlines(runs: Sequence[Run], labels: Sequence[str], kinds: Sequence[tuple[str, str, str]]) -> Table:
    rows = [*_facts(runs, kinds), *_quality(runs, Ranking(tuple(kinds))), *_price(runs, kinds)]
    known = [row for row in rows if any(cell != fmt.DASH for cell in row[1:])]
    return Table("Headline numbers", ("", *labels), tuple(known), kind="compare")


def _facts(runs: Sequence[Run], kinds: Sequence[tuple[str, str, str]]) -> list[tuple[str, ...]]:
    return [
        ("Status", *(story.status(run) for run in runs)),
        ("Method", *(run.summary.method or fmt.DASH for run in runs)),
        ("Model", *(model or fmt.DASH for model, _, _ in kinds)),
        ("Data", *(data or fmt.DASH for _, data, _ in kinds)),
        ("Task", *(task for _, _, task in kinds)),
        ("Clients", *(fmt.count(len(story.client_names(run)) or None) for run in runs)),
        ("Rounds", *(fmt.count(len(run.rounds)) for run in runs)),
        ("Seed", *(fmt.count(run.summary.seed) for run in runs)),
        ("Cut, rank", *(_cut_and_rank(run) for run in runs)),
    ]


def _cut_and_rank(run: Run) -> str:
    cut = story.same_or_range(story.cuts(run)) if story.is_cut(run) else fmt.DASH
    return f"{cut}, {story.same_or_range(story.ranks(run))}"


def _quality(runs: Sequence[Run], ranking: Ranking) -> list[tuple[str, ...]]:
    losses = [Change() if _differ(runs) else story.loss_change(run) for run in runs]
    after, row = [run.summary.evaluation.after for run in runs], ranking.row
    return [
        row("Accuracy", [math.nan if _differ(runs) else j.accuracy for j in after], fmt.percent, best=max),
        row("Accuracy, own domains", [finite_mean(j.own_accuracy_K) for j in after], fmt.percent, best=max),
        row("Accuracy, foreign domains", [finite_mean(j.foreign_accuracy_K) for j in after], fmt.percent, best=max),
        row("Loss, own domains", [finite_mean(j.own_loss_K) for j in after], lambda value: fmt.number(value, 4)),
        row("Mixed reward (sd)", _mixed_rewards(runs), fmt.number, best=max),
        row("True mixed score", [_aligned(run, "true_mixed_K") for run in runs], fmt.number, best=max),
        row("Validation loss", [loss.after for loss in losses], lambda value: fmt.number(value, 4)),
        row("Perplexity", [_perplexity(*pair) for pair in zip(runs, losses, strict=True)], fmt.number),
    ]


def _price(runs: Sequence[Run], kinds: Sequence[tuple[str, str, str]]) -> list[tuple[str, ...]]:
    """What runs cost; a run in one place has no cell, no plan and no bits, and is ranked with nobody."""
    central = [story.is_central(run) for run in runs]
    costs = [story.totals(run) for run in runs]
    plans = [PlanInfo() if alone else run.summary.plan for run, alone in zip(runs, central, strict=True)]
    row = Ranking(tuple(None if alone else kind for kind, alone in zip(kinds, central, strict=True))).row
    return [
        row("Simulated time", [cost.delay_s for cost in costs], fmt.seconds),
        *_time_to_target(runs, kinds, row),
        row("Planned delay", [_planned_s(run, plan) for run, plan in zip(runs, plans, strict=True)], fmt.seconds),
        row("Gap to lower bound", [_gap(plan.delay_s, plan.lower_bound_s) for plan in plans], fmt.percent),
        row("Energy", [cost.energy_j for cost in costs], fmt.joules),
        row("Upload of a client and round", [story.upload_bits(run)[0] for run in runs], fmt.bits),
        row("Uplink", [cost.up_bits for cost in costs], fmt.bits),
        row("Downlink", [cost.down_bits for cost in costs], fmt.bits),
    ]


def _time_to_target(
    runs: Sequence[Run], kinds: Sequence[tuple[str, str, str]], row: Callable[..., tuple[str, ...]]
) -> list[tuple[str, ...]]:
    """Simulated time to the loss that all reached, where all losses are of the same thing."""
    if _differ(runs) or len(set(kinds)) > 1:
        return []
    target = max((after for run in runs if math.isfinite(after := story.loss_change(run).after)), default=math.nan)
    times = [time_to_loss_s(run, target) for run in runs]
    return [row(f"Simulated time to loss {fmt.number(target, 4)}", times, fmt.seconds)]


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


def _planned_s(run: Run, plan: PlanInfo) -> float:
    """The plan's delay with what its rounds take beside it; unknown where that is something and the rounds are not."""
    phases = run.rounds[0].planned.phases if run.rounds else Phases()
    beside_s = sum(getattr(phases, name) for name in BESIDE)
    return plan.delay_s + plan.rounds * beside_s if beside_s > 0 else plan.delay_s


def _gap(delay_s: float, bound_s: float) -> float:
    return delay_s / bound_s - 1 if bound_s > 0 else math.nan
