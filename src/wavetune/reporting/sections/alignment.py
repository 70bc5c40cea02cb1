"""The second stage: rewards and ground truth over its steps, the front of the two, what each client gained."""

import math
from collections.abc import Sequence
from statistics import median

from wavetune.estimate import Estimate, finite_mean
from wavetune.records.alignment import Answers
from wavetune.records.reading import Run
from wavetune.records.summary import Sample
from wavetune.reporting import format as fmt
from wavetune.reporting import story
from wavetune.reporting.chart import Axis, Figure, Key, Table, figure
from wavetune.reporting.front import Move, front_chart
from wavetune.reporting.lines import Point, Series, line_chart, numbers_of_lines
from wavetune.reporting.numbers import Numbers
from wavetune.reporting.sections.section import Section, at, make_section

STEPS = Axis("step", whole=True)
SCORES = (
    ("helpful", "Helpful reward"),
    ("safe", "Safe reward"),
    ("true_helpful", "True helpfulness"),
    ("true_safe", "True safety"),
)
MOST_ANSWERS = 6


def alignment(run: Run) -> Section:
    """Section on local alignment."""
    info = run.summary.alignment
    figures = [
        _front_figure(run),
        _training_figure(run, "reward", "Mixed reward in training", "standard deviations of the answers so far"),
        _training_figure(run, "kl", "Distance from the shared policy", "KL divergence, nats per answer token"),
        *(_held_out_figure(run, name, title) for name, title in SCORES),
    ]
    words = (
        f"{info.steps} steps of {info.objective.upper()} on each client's private LoRA, towards λ · helpful + (1 − λ) "
        "· safe; nothing is sent. Scores are of held-out prompts unless they are called training."
        if info.steps
        else "No step of alignment was taken: the clients are evaluated only."
    )
    if math.isfinite(info.charged.delay_s):
        spent = f"{fmt.seconds(info.charged.delay_s)} and {fmt.joules(info.charged.energy_j)}"
        words += f" They are charged {spent} beside the rounds."
    words = " ".join(filter(None, (words, _on_devices(run))))
    made = make_section("Alignment", "Alignment", figures, [_table(run)], words if info.lambdas else "")
    return Section(made.anchor, made.title, made.short, made.words, made.figures, made.tables, _answers(run))


def _on_devices(run: Run) -> str:
    """What steps took where devices of their own took them, beside what was charged for those of the recipe."""
    slowest = [
        max(known) for one in run.alignment if (known := [s for s in one.measured.align_s_K if math.isfinite(s)])
    ]
    if not slowest:
        return ""
    charged = finite_mean(one.charged.delay_s for one in run.alignment)
    return (
        f"The slowest device took {fmt.seconds(median(slowest))} for a step (median), evaluations included; "
        f"{fmt.seconds(charged)} are charged for the recipe's devices."
    )


def _labels(run: Run) -> list[str]:
    lambdas = run.summary.alignment.lambdas
    return [f"{name}, λ {lambdas[k]:g}" if k < len(lambdas) else name for k, name in enumerate(story.client_names(run))]


def _css(client: int) -> str:
    return f"cat-{client % 8}"


def _lines_figure(run: Run, curves: Sequence[tuple[float, Sequence[float]]], title: str, axis: str) -> Figure | None:
    """A thin line for each client and their mean."""
    labels = _labels(run)
    series = [
        Series(label, f"thin {_css(k)}", [(x, at(values, k, math.nan)) for x, values in curves], marked=False)
        for k, label in enumerate(labels)
    ]
    means: list[Point] = [(x, finite_mean(values)) for x, values in curves]
    series.append(Series("mean of the clients", "strong", means))
    keys = (
        Key("strong", "mean", "line"),
        *(Key(f"thin {_css(k)}", label, "line") for k, label in enumerate(labels[:8])),
    )
    numbers = numbers_of_lines(series, STEPS, Axis(axis))
    return figure(title, lambda px: line_chart(series, STEPS, Axis(axis), title, px), keys=keys, numbers=numbers)


def _training_figure(run: Run, name: str, title: str, axis: str) -> Figure | None:
    return _lines_figure(run, [(one.step + 1.0, one.metrics.get(name, ())) for one in run.alignment], title, axis)


def _held_out_figure(run: Run, name: str, title: str) -> Figure | None:
    """A score of held-out prompts from before the first step on."""
    measured = [(one.step + 1.0, one.evaluation.get(f"{name}_K", ())) for one in run.alignment]
    curves = [(0.0, run.summary.alignment.before.get(f"{name}_K", ())), *measured]
    curves = [(x, values) for x, values in curves if values]
    return _lines_figure(run, curves, title, "mean of held-out prompts") if len(curves) > 1 else None


def _estimate(answers: Sequence[Answers], k: int, name: str) -> Estimate:
    """Mean of a client's scores and half its 95 % interval."""
    return answers[k].mean(name) if k < len(answers) else Estimate.of(())


def _front_figure(run: Run) -> Figure | None:
    before, after = run.held_out_before.own, run.held_out_after.own
    prefix = "true_" if after and "true_helpful" in after[0].scores else ""
    names, lambdas, moves = (f"{prefix}helpful", f"{prefix}safe"), run.summary.alignment.lambdas, list[Move]()
    for k, label in enumerate(_labels(run)):
        was, now = ((_estimate(part, k, names[0]), _estimate(part, k, names[1])) for part in (before, after))
        helpful, safe = (_pm(one.mean, one.half_width) for one in now)
        words = f"{label}: helpful {helpful}, safe {safe}"
        moves.append(Move(f"λ {lambdas[k]:g}" if k < len(lambdas) else label, _css(k), words, was, now))
    what = "true scores, 1 is best" if prefix else "rewards"
    title = "Helpfulness and safety of each client, before and after"
    caption = (
        f"Held-out prompts of each client's own domains, {what}. An arrow leads from the client's answers before "
        "alignment to those after it; crosses are 95 % intervals over prompts."
    )
    axes = Axis("helpful"), Axis("safe")
    head = ("client", *(f"{name}, {when}" for when in ("before", "after") for name in ("helpful", "safe")))
    rows = tuple((one.words.split(":")[0], *(point.mean for point in (*one.before, *one.after))) for one in moves)
    numbers = Numbers(head, rows)
    return figure(title, lambda px: front_chart(moves, *axes, title, px), caption, span="tall", numbers=numbers)


def _pm(mean: float, half: float, signed: bool = False) -> str:
    sign = "+" if signed and mean > 0 else ""
    return f"{sign}{fmt.number(mean)}" + (f" ± {fmt.number(half, 2)}" if math.isfinite(half) else "")


def _table(run: Run) -> Table:
    info, last = run.summary.alignment, run.alignment[-1] if run.alignment else None
    prefixes = [
        (prefix, word)
        for prefix, word in (("", ""), ("true_", "true "))
        if run.held_out_after.own and f"{prefix}helpful" in run.held_out_after.own[0].scores
    ]
    columns = [
        (f"{word}{name}, {part}".capitalize(), part, f"{prefix}{name}")
        for prefix, word in prefixes
        for name in ("helpful", "safe")
        for part in ("own", "foreign")
        if getattr(run.held_out_after, part)
    ]
    rows = tuple(
        (
            name,
            f"{info.lambdas[k]:g}" if k < len(info.lambdas) else fmt.DASH,
            _pm(info.mixed_gain_K[k].mean, info.mixed_gain_K[k].half_width_95, signed=True)
            if k < len(info.mixed_gain_K)
            else fmt.DASH,
            fmt.number(at(last.metrics.get("kl", ()), k, math.nan)) if last else fmt.DASH,
            *(_change(run, part, score, k) for _, part, score in columns),
        )
        for k, name in enumerate(story.client_names(run))
        if info.lambdas
    )
    head = ("Client", "λ", "Gain in its mixture (sd)", "KL at the end", *(title for title, _, _ in columns))
    return Table("What each client gained, with 95 % intervals over its held-out prompts", head, rows)


def _change(run: Run, part: str, score: str, k: int) -> str:
    was = _estimate(getattr(run.held_out_before, part), k, score).mean
    return f"{fmt.number(was)} → {fmt.number(_estimate(getattr(run.held_out_after, part), k, score).mean)}"


def _answers(run: Run) -> tuple[Sample, ...]:
    """The first held-out prompt of each client, answered before and after; no better ones are looked for."""
    shown: list[Sample] = []
    clients = list(zip(_labels(run), run.held_out_before.own, run.held_out_after.own, strict=False))
    every = max(1, math.ceil(len(clients) / MOST_ANSWERS))
    for label, was, now in clients[::every]:
        if was.prompts and was.answers and now.answers:
            scores = ", ".join(
                f"{title.lower()} {fmt.number(was.scores[name][0])} → {fmt.number(now.scores[name][0])}"
                for name, title in SCORES
                if was.scores.get(name) and now.scores.get(name)
            )
            shown.append(Sample(was.prompts[0], "", was.answers[0], now.answers[0], f"{label}: {scores}"))
    return tuple(shown)
