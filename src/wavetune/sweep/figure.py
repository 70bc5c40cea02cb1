"""Draw a sweep: delay of every method and the proposed planner's gain over each by value, with 95 % intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wavetune.estimate import Estimate
from wavetune.reporting.format import axis_unit
from wavetune.reporting.origin import origin_of
from wavetune.reporting.static_figures import new_figure, open_frame, plain_ticks, save, sign
from wavetune.sweep.axis import key_of
from wavetune.sweep.methods import BOUND, PROPOSED, title
from wavetune.sweep.summary import Point, Summary
from wavetune.units import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, apart for every kind of colour vision; shapes tell the methods apart in print.
_THEIRS = {"color": "#661100", "marker": "*", "linestyle": "-"}  # planners of other people
STYLES = {
    PROPOSED: {"color": "#0072B2", "marker": "o", "linewidth": 2.2, "zorder": 5},
    "greedy": {"color": "#D55E00", "marker": "s"},
    "greedy-whole-band": {"color": "#882255", "marker": "p"},
    "genetic": {"color": "#4B2991", "marker": "*"},
    "fedavg-lora": {"color": "#000000", "marker": "h", "linestyle": ":"},
    "proportional-fair": {"color": "#117733", "marker": "<", "linestyle": "-."},
    "max-gain": {"color": "#AA4499", "marker": ">", "linestyle": "-."},
    "round-robin": {"color": "#999933", "marker": "d", "linestyle": "-."},
    "equal-shares": {"color": "#6699CC", "marker": "8", "linestyle": "-."},
    "uniform-power": {"color": "#E69F00", "marker": "^"},
    "random-rank": {"color": "#56B4E9", "marker": "v"},
    "random-cut": {"color": "#CC79A7", "marker": "D"},
    "random-subchannels": {"color": "#009E73", "marker": "P"},
    "all-random": {"color": "#7F7F7F", "marker": "X"},
    BOUND: {"color": "black", "linestyle": "--", "linewidth": 1.0, "zorder": 6},
}
ASIDE = 0.006  # of the axis, from a method to the next, so that their intervals do not hide each other


def save_figure(summary: Summary, stem: Path, command: str) -> list[Path]:
    """Save `stem`.svg and `stem`.png; the same sweep by the same command gives the same files."""
    figure = new_figure((10.0, 4.8))
    has_gains = any(gain.count for gain in summary.gains.values())
    delays = figure.add_subplot(1, 1 + has_gains, 1)
    _draw_delays(summary, delays)
    if has_gains:
        _draw_gains(summary, figure.add_subplot(1, 2, 2, sharex=delays))
    figure.legend(*delays.get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    sign(figure, origin_of(summary.sweep.recipe, summary.sweep.seeds), command)
    return save(figure, stem)


def _draw_delays(summary: Summary, axes: Axes) -> None:
    means = [p.delay_s.mean for p in summary.points if p.delay_s.count]
    divisor, unit = axis_unit("s", max(means, default=1.0))
    x = np.array(_positions(summary))
    for method in summary.sweep.methods:
        _line(summary, axes, x, summary.of(method), [p.delay_s for p in summary.of(method)], divisor)
    if means and max(means) > 4 * min(means):
        axes.set_yscale("log")
        plain_ticks(axes.yaxis, 1.0, 2.0, 5.0)
    axes.set_ylabel(f"training delay to the target loss ({unit})")
    _finish(summary, axes)
    _mark_infeasible(summary, axes)


def _draw_gains(summary: Summary, axes: Axes) -> None:
    for rank, method in enumerate(summary.gains):
        x = _beside(summary, rank - len(summary.gains) // 2)
        _line(summary, axes, x, summary.of(method), [p.gain for p in summary.of(method)], 0.01)
    axes.axhline(0.0, color="black", linewidth=0.6)
    axes.set_ylabel("gain of the proposed planner over each (%)")
    _finish(summary, axes)


def _line(
    summary: Summary, axes: Axes, x: Array, points: Sequence[Point], estimates: Sequence[Estimate], divisor: float
) -> None:
    """A method's means with error bars; a mean over some of the seeds only is a hollow mark."""
    method = points[0].method
    style = {"markersize": 5, "linewidth": 1.3, **STYLES.get(method, _THEIRS)}
    y, error = (np.array([getattr(e, name) for e in estimates]) / divisor for name in ("mean", "half_width"))
    error = None if method == BOUND else np.nan_to_num(error)
    axes.errorbar(x, y, error, label=title(method), capsize=2.0, elinewidth=0.8, **style)
    partial = np.array([0 < p.delay_s.count < len(summary.sweep.seeds) for p in points])
    if partial.any() and method != BOUND:
        face = {"linestyle": "none", "markerfacecolor": "white", "zorder": 7}
        axes.plot(x[partial], y[partial], **{**style, **face})


def _positions(summary: Summary) -> list[float]:
    axis = summary.sweep.axis
    if not axis.is_numeric:
        return list(map(float, range(len(axis.values))))
    return [float(v) / axis.scale[0] for v in axis.values if isinstance(v, float | int)]


def _is_logarithmic(summary: Summary) -> bool:
    x = _positions(summary)
    return summary.sweep.axis.is_numeric and min(x) > 0 and max(x) >= 10 * min(x)


def _beside(summary: Summary, rank: int) -> Array:
    """Where the method of that rank stands, about the middle one."""
    x = np.array(_positions(summary))
    if _is_logarithmic(summary):
        return x * (max(x) / min(x)) ** (ASIDE * rank)
    return x + ASIDE * rank * (max(x) - min(x))


def _finish(summary: Summary, axes: Axes) -> None:
    axis, x = summary.sweep.axis, _positions(summary)
    unit = axis.scale[1]
    if _is_logarithmic(summary):
        axes.set_xscale("log")
        axes.set_xticks([], minor=True)
    axes.set_xticks(x, [f"{v:g}" for v in x] if axis.is_numeric else [axis.show(v) for v in axis.values])
    axes.set_xlabel(f"{axis.title} ({unit})" if unit else axis.title)
    open_frame(axes)


def _mark_infeasible(summary: Summary, axes: Axes) -> None:
    """Say above the axis at which values, and for how many seeds, no plan exists."""
    seeds = len(summary.sweep.seeds)
    for x, value in zip(_positions(summary), summary.sweep.axis.values, strict=True):
        planned = min(p.planned for p in summary.points if key_of(p.value) == key_of(value))
        if planned < seeds:
            axes.axvline(x, color="#B00020", linewidth=0.8, linestyle=":")
            axes.annotate(f"no plan:\n{seeds - planned} of {seeds}", (x, 1.0), xycoords=("data", "axes fraction"),
                          va="top", ha="right", fontsize=8, color="#B00020", xytext=(-3, 0),
                          textcoords="offset points")  # fmt: skip
