"""The delay-energy curve as JSON, as a table on the terminal and as a figure."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from wavetune.allocation.trade_off import TradeOff
from wavetune.reporting.format import axis_unit, joules, number, percent, seconds
from wavetune.reporting.static_figures import new_figure, open_frame, plain_ticks, save, sign


def to_dict(curve: TradeOff, origin: Mapping[str, str], command: str) -> dict[str, Any]:
    """The curve as plain values, fastest plan first, with where it is from."""
    points = zip(curve.points, curve.prices_s_per_j(), strict=True)
    return {
        "command": command,
        "origin": dict(origin),
        "status": "ok" if curve.points else "infeasible",
        "reason": curve.reason,
        "lower_bound_s": curve.points[0].plan.lower_bound_s if curve.points else None,
        "points": [
            {
                "delay_s": point.plan.delay_s,
                "energy_j": point.energy_j,
                "energy_bound_j": point.energy_bound_j,
                "round_s": point.plan.phases.round_s,
                "round_energy_j": point.plan.energy.total_j,
                "energy_weight_s_per_j": price if math.isfinite(price) else None,
                "cut": sorted({*point.plan.cut_K.tolist()}),
                "rank": sorted({*point.plan.rank_K.tolist()}),
            }
            for point, price in points
        ],
    }


def table(curve: TradeOff) -> Table:
    """One row a point: delay, energy, how much of it is not proved necessary, and the price of a joule saved."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), collapse_padding=True)
    for name in ("delay", "slower", "energy", "unproved", "s per J", "round", "J a round", "cut", "rank"):
        shown.add_column(name, justify="right", no_wrap=True)
    first_s = curve.points[0].plan.delay_s
    for point, price in zip(curve.points, curve.prices_s_per_j(), strict=True):
        plan = point.plan
        unproved = percent(1 - point.energy_bound_j / point.energy_j) if point.energy_bound_j else ""
        cuts, ranks = (", ".join(map(str, sorted({*x.tolist()}))) for x in (plan.cut_K, plan.rank_K))
        shown.add_row(
            seconds(plan.delay_s), percent(plan.delay_s / first_s - 1), joules(point.energy_j), unproved,
            number(price) if math.isfinite(price) else "", seconds(plan.phases.round_s), number(plan.energy.total_j),
            cuts, ranks,
        )  # fmt: skip
    return shown


def save_figure(curve: TradeOff, stem: Path, origin: Mapping[str, str], command: str) -> list[Path]:
    """Save `stem`.svg and `stem`.png; the same curve by the same command gives the same files."""
    points = [p for p in curve.points if p.energy_j > 0]
    seconds_by, second = axis_unit("s", max(p.plan.delay_s for p in points))
    joules_by, joule = axis_unit("J", max(p.energy_j for p in points))
    figure = new_figure((6.4, 3.6))
    axes = figure.add_subplot()
    delay = [p.plan.delay_s / seconds_by for p in points]
    axes.plot(delay, [p.energy_j / joules_by for p in points], color="#0072B2", marker="o", label="plans")
    if all(p.energy_bound_j > 0 for p in points):
        bound = [p.energy_bound_j / joules_by for p in points]
        axes.plot(delay, bound, color="black", linestyle="--", linewidth=1.0, label="no plan is below")
    axes.axvline(points[0].plan.lower_bound_s / seconds_by, color="#7F7F7F", linewidth=0.8, label="no plan is faster")
    axes.set_xlabel(f"training delay to the target loss ({second})")
    axes.set_ylabel(f"energy to the target loss ({joule})")
    axes.set_ylim(0.0, 1.1 * points[0].energy_j / joules_by)
    axes.set_xscale("log")
    plain_ticks(axes.xaxis, 1.0, 2.0, 3.0, 5.0)
    open_frame(axes)
    axes.legend(frameon=False)
    sign(figure, origin, command)
    return save(figure, stem)
