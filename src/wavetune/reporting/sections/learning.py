"""How well the run learned: loss and perplexity against rounds and simulated time, clients, and the mixing's error."""

import math
from collections.abc import Sequence

from wavetune.records.reading import Run
from wavetune.records.rounds import Round
from wavetune.reporting import format as fmt
from wavetune.reporting import story
from wavetune.reporting.bars import Bar
from wavetune.reporting.chart import Axis, Figure, Key, Table, figure
from wavetune.reporting.lines import Point, Series, line_chart, numbers_of_lines
from wavetune.reporting.sections.section import Section, client_figure, make_section

ROUNDS, TIME = Axis("round", whole=True), Axis("simulated time", "s")
LEAST_POINTS = 3  # of a curve that says more than a number before and one after
LEAST_SPREAD = 0.05  # between clients' losses that can be told apart as bars from zero
AGAINST = ((ROUNDS, "rounds"), (TIME, "simulated time"))


def loss_by_round(run: Run) -> Figure | None:
    """The curve that stands beside the headline."""
    return _loss_figure(run, *AGAINST[0])


def learning(run: Run) -> Section:
    """Section on learning, besides the curve of the headline."""
    against = AGAINST[:1] if story.is_central(run) else AGAINST
    curves = [_loss_figure(run, *each) for each in against[1:]]
    quality = _accuracy_figure if story.is_classifier(run) else _perplexity_figure
    curves += [quality(run, *each) for each in against]
    return make_section("Learning", "Learning", [*curves, _mixing_figure(run), _client_figure(run)])


def elapsed_s(rounds: Sequence[Round]) -> list[float]:
    """Simulated time at the end of each round; NaN from the first round whose delay is unknown."""
    ends, now = list[float](), 0.0
    for record in rounds:
        now += record.charged.delay_s
        ends.append(now)
    return ends


def positions(run: Run, axis: Axis) -> list[float]:
    """Where the rounds' ends lie on an axis."""
    return elapsed_s(run.rounds) if axis is TIME else [record.round + 1.0 for record in run.rounds]


def validation_points(run: Run, axis: Axis) -> list[Point]:
    """(x, validation loss) from before the first round on."""
    losses = [record.validation_loss for record in run.rounds]
    return [(0.0, run.summary.validation_loss.before), *zip(positions(run, axis), losses, strict=True)]


def _loss_figure(run: Run, axis: Axis, against: str) -> Figure | None:
    xs = positions(run, axis)
    training = [(x, record.train_loss) for x, record in zip(xs, run.rounds, strict=True)]
    series = [
        Series("training", "cat-0", training, marked=False),
        Series("validation", "cat-1", validation_points(run, axis)),
    ]
    names = {"training": "training, mean over clients"}
    series = [one for one in series if any(math.isfinite(y) for _, y in one.points)]
    keys = [Key(one.css, names.get(one.label, one.label), "line") for one in series]
    finite = [[loss for loss in record.train_loss_K if math.isfinite(loss)] for record in run.rounds]
    spread = [(x, min(losses), max(losses)) for x, losses in zip(xs, finite, strict=True) if len(losses) > 1]
    if len(spread) > 1:
        ceiling, floor = [(x, high) for x, _, high in spread], [(x, low) for x, low, _ in spread]
        series.insert(0, Series("range over clients", "cat-0", ceiling, floor))
        keys.append(Key("cat-0", "training, range over clients", "area"))
    change, title = story.loss_change(run), f"Loss against {against}"
    label = f"{title}: validation loss from {fmt.number(change.before, 4)} to {fmt.number(change.after, 4)}."
    table = _loss_table(run) if axis is ROUNDS else None
    numbers = numbers_of_lines(series, axis, Axis("loss"))
    return figure(
        title,
        lambda px: line_chart(series, axis, Axis("loss"), label, px),
        keys=tuple(keys),
        table=table,
        numbers=numbers,
    )


def _loss_table(run: Run) -> Table:
    rows = tuple(
        (
            str(record.round + 1),
            fmt.seconds(end),
            fmt.number(record.train_loss, 4),
            fmt.number(record.validation_loss, 4),
            fmt.percent(record.evaluation.accuracy)
            if story.is_classifier(run)
            else fmt.number(story.perplexity(record.validation_loss)),
        )
        for record, end in zip(run.rounds, elapsed_s(run.rounds), strict=True)
    )
    quality = "Accuracy" if story.is_classifier(run) else "Perplexity"
    return Table("Loss by round", ("Round", "Simulated time", "Training loss", "Validation loss", quality), rows)


def _perplexity_figure(run: Run, axis: Axis, against: str) -> Figure | None:
    points = [(x, story.perplexity(loss)) for x, loss in validation_points(run, axis)]
    series = [Series("validation perplexity", "cat-1", points)]
    if sum(math.isfinite(y) for _, y in points) < LEAST_POINTS:
        return None  # two points say no more than the headline
    title = f"Perplexity against {against}"
    return _curve(title, series, axis, Axis("perplexity"))


def _accuracy_figure(run: Run, axis: Axis, against: str) -> Figure | None:
    accuracies = [record.evaluation.accuracy for record in run.rounds]
    points = [(0.0, run.summary.evaluation.before.accuracy), *zip(positions(run, axis), accuracies, strict=True)]
    percents = [(x, 100 * y) for x, y in points]
    series = [Series("validation accuracy", "cat-1", percents)]
    title = f"Accuracy against {against}"
    return _curve(title, series, axis, Axis("accuracy, %"))


def _mixing_figure(run: Run) -> Figure | None:
    points = [(record.round + 1.0, record.aggregation_error) for record in run.rounds]
    if all(error == 0 or math.isnan(error) for _, error in points):
        return None
    title, name = "Aggregation error", run.summary.aggregation.name or "the mixing used"
    caption = f"Relative Frobenius distance between the product BA that {name} gives and the mean of the clients' BA."
    series = [Series("aggregation error", "cat-3", points)]
    return _curve(title, series, ROUNDS, Axis("relative error"), caption)


def _curve(title: str, series: Sequence[Series], x_axis: Axis, y_axis: Axis, caption: str = "") -> Figure | None:
    numbers = numbers_of_lines(series, x_axis, y_axis)
    return figure(title, lambda px: line_chart(series, x_axis, y_axis, title, px), caption, numbers=numbers)


def _client_figure(run: Run) -> Figure | None:
    last = next((record for record in reversed(run.rounds) if len(record.train_loss_K) > 1), None)
    if not last:
        return None
    known = [loss for loss in last.train_loss_K if math.isfinite(loss)]
    if not known or max(known) - min(known) < LEAST_SPREAD * abs(max(known)):
        return None
    losses = zip(story.client_names(run), last.train_loss_K, strict=False)
    bars = [Bar(name, (("cat-0", "", loss),), fmt.number(loss, 4)) for name, loss in losses]
    caption = f"Mean over the batches of round {last.round + 1}."
    return client_figure("Training loss by client", bars, Axis("loss"), caption)
