"""Static figures of a run for documents and papers: loss curves and delay by phase, as PNG and SVG."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from wavetune.records.reading import Run, read_run
from wavetune.reporting import format as fmt
from wavetune.reporting.accounts import PHASES, total_critical_s
from wavetune.reporting.chart import Axis
from wavetune.reporting.lines import thin
from wavetune.reporting.sections.learning import ROUNDS, TIME, positions, validation_points
from wavetune.reporting.static_figures import FORMATS, new_figure, open_frame, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = {"training": "#1f6fc4", "validation": "#c8560a"}


def save_figures(run_dir: Path, out_dir: Path, formats: tuple[str, ...] = FORMATS) -> list[Path]:
    """Save loss-rounds, loss-time and delay in each format; return the paths of those there is something to draw for.

    Raises: RunFolderError if the folder holds no run records.
    """
    run = read_run(run_dir)
    drawn = {"loss-rounds": _loss(run, ROUNDS), "loss-time": _loss(run, TIME), "delay": _delay(run)}
    out_dir.mkdir(parents=True, exist_ok=True)
    return [path for name, one in drawn.items() if one for path in save(one, out_dir / name, 200, formats)]


def _empty() -> tuple[Figure, Axes]:
    figure = new_figure((6.4, 3.2))
    axes = figure.add_subplot()
    open_frame(axes, grid=False)
    return figure, axes


def _loss(run: Run, axis: Axis) -> Figure | None:
    training = list(zip(positions(run, axis), [record.train_loss for record in run.rounds], strict=True))
    lines = {"training": thin(training), "validation": thin(validation_points(run, axis))}
    every = [point for points in lines.values() for point in points]
    if not every:
        return None
    divisor, unit = fmt.axis_unit(axis.unit, max(x for x, _ in every))
    figure, axes = _empty()
    for name, points in lines.items():
        axes.plot([x / divisor for x, _ in points], [y for _, y in points], label=name, color=COLORS[name], marker=".")
    axes.set(xlabel=axis.title(unit), ylabel="loss")
    axes.legend(frameon=False)
    return figure


def _delay(run: Run) -> Figure | None:
    parts = total_critical_s(one.charged for one in run.rounds)
    known = {PHASES.get(phase, phase): value for phase, value in parts.items() if value > 0}
    if not known:
        return None
    divisor, unit = fmt.axis_unit("s", max(known.values()))
    figure, axes = _empty()
    bars = axes.barh(list(known), [value / divisor for value in known.values()], color=COLORS["training"])
    axes.bar_label(bars, [fmt.seconds(value) for value in known.values()], padding=4)
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set(xlabel=f"delay ({unit})")
    return figure
