"""A contest as a figure: quality against delay, energy and bits, a line a run, and what disturbances change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavetune.ranking.contest import Outcome
from wavetune.ranking.curves import RESOURCES, Curve, Quality, curve_of
from wavetune.ranking.metrics import change_under
from wavetune.ranking.page import origin
from wavetune.ranking.table import quality_named
from wavetune.records.reading import read_run
from wavetune.reporting.format import axis_unit
from wavetune.reporting.static_figures import new_figure, open_frame, save, sign

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, apart for every kind of colour vision; dashes tell the next eight from the first.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#7F7F7F")
DASHES = ("solid", (0, (4, 1.5)), (0, (1, 1)))
WIDTH_INCHES, HEIGHT_INCHES, MARK_INCHES = 11.0, 4.6, 0.17


def save_figure(outcome: Outcome, table: Mapping[str, Any], stem: Path) -> list[Path]:
    """Save `stem`.svg and `stem`.png; the same contest gives the same files."""
    quality, seeds = quality_named(table["quality"]), table["seeds"]
    curves = {
        method: [curve_of(read_run(outcome.folder / f"{method}-seed{seed}"), quality) for seed in seeds]
        for method in outcome.methods
    }
    changes = [name for name in table["under"] if change_under(name, quality).name in table["metrics"]]
    marks = len(changes) * len(curves)
    figure = new_figure((WIDTH_INCHES, max(HEIGHT_INCHES, 2 + MARK_INCHES * marks)))
    panels = list(figure.subplots(1, len(RESOURCES) + bool(changes), squeeze=False)[0])
    for resource, axes in zip(RESOURCES, panels, strict=False):
        _draw_curves(axes, curves, resource, quality, table)
    if changes:
        _draw_changes(panels[-1], table, changes, list(curves), quality)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False)
    first = next(iter(outcome.contest.entrants.values()))
    found = origin(table, first.world.scenario.population.num_clients)
    sign(figure, found, table["command"])
    return save(figure, stem)


def _style(index: int) -> dict[str, Any]:
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": DASHES[index // len(COLOURS) % len(DASHES)]}


def _draw_curves(
    axes: Axes, curves: Mapping[str, Sequence[Curve]], resource: str, quality: Quality, table: Mapping[str, Any]
) -> None:
    largest = max(curve.spent[resource][-1] for own in curves.values() for curve in own)
    divisor, unit = axis_unit(RESOURCES[resource].unit, largest)
    for index, (method, own) in enumerate(curves.items()):
        for number, curve in enumerate(own):
            label = method.replace("_", " ") if number == 0 else None
            x = [spent / divisor for spent in curve.spent[resource]]
            free = not curve.spent[resource][-1]
            axes.plot(x, curve.quality, marker="." if free else None, linewidth=1.2, label=label, **_style(index))
    aims = [aim for aim in table["target"]["by_seed"] if aim is not None]
    for aim in {*aims}:
        axes.axhline(aim, color="black", linewidth=0.5, linestyle="dotted")
    for limit in {*table["budgets"][resource]["by_seed"]}:
        axes.axvline(limit / divisor, color="black", linewidth=0.5, linestyle="dotted")
    axes.set_xlabel(f"{RESOURCES[resource].name} ({unit})")
    axes.set_ylabel(quality.name)
    open_frame(axes)


def _draw_changes(
    axes: Axes, table: Mapping[str, Any], changes: Sequence[str], methods: Sequence[str], quality: Quality
) -> None:
    """A mark with its interval for each method and disturbance, from the top."""
    rows = [(name, method) for name in changes for method in methods]
    shown = [(name, method) for name, method in rows if change_under(name, quality).name in table["methods"][method]]
    for y, (name, method) in enumerate(shown):
        own = table["methods"][method][change_under(name, quality).name]
        half = own["half_width_95"] or 0.0
        colour = _style(methods.index(method))["color"]
        axes.errorbar(own["mean"], -y, xerr=half, marker="o", color=colour, capsize=2.0, linewidth=1.0)
    axes.axvline(0.0, color="black", linewidth=0.6)
    labels = [f"{method.replace('_', ' ')}, {name.replace('_', ' ')}" for name, method in shown]
    axes.set_yticks([-y for y in range(len(shown))], labels, fontsize=7)
    axes.set_xlabel(f"change of {quality.name}")
    open_frame(axes)
