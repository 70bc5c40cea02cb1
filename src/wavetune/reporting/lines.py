"""Line charts."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from wavetune.reporting.chart import FOOT_PX, Axis, base_axis, chart_height, value_axis
from wavetune.reporting.numbers import Cell, Numbers, rounded
from wavetune.reporting.svg import Scale, svg, tag, tip

MARKED_POINTS = 40  # beyond that, markers hide the line
DRAWN_POINTS = 400
TOLD_POINTS = 24  # of a line without markers, that tell their value on hover
RIGHT_PX = 14

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """A line, or the area between `points` and `floor`; values that are not finite are left out."""

    label: str
    css: str
    points: Sequence[Point]
    floor: Sequence[Point] = ()
    marked: bool = True


def thin(points: Sequence[Point], limit: int = DRAWN_POINTS) -> list[Point]:
    """At most about `limit` finite points that keep every bucket's least and largest value.

    >>> thin([(0, 1.0), (1, float("nan")), (2, 3.0)])
    [(0, 1.0), (2, 3.0)]
    """
    finite = [point for point in points if math.isfinite(point[0]) and math.isfinite(point[1])]
    if len(finite) <= limit:
        return finite
    size = math.ceil(2 * len(finite) / limit)
    kept: set[Point] = {finite[0], finite[-1]}
    for start in range(0, len(finite), size):
        bucket = finite[start : start + size]
        kept |= {min(bucket, key=lambda p: p[1]), max(bucket, key=lambda p: p[1])}
    return sorted(kept)


def line_chart(series: Sequence[Series], x_axis: Axis, y_axis: Axis, label: str, width: int) -> Markup | None:
    """Lines over a common grid, or None where there is no finite value to draw."""
    drawn = [(one, thin(one.points), thin(one.floor)) for one in series]
    every = [point for _, points, floor in drawn for point in (*points, *floor)]
    if not every:
        return None
    right, baseline = width - RIGHT_PX, chart_height(width) - FOOT_PX
    axis = value_axis(y_axis, *_padded([y for _, y in every]), width, right)
    xs = [x for x, _ in every]
    x = Scale(min(0.0, *xs), max(xs) or 1.0, axis.left, right)
    shapes = [*axis.marks, *base_axis(x, x_axis, baseline)]
    for one, points, floor in drawn:
        if floor:
            outline = f"M{_path(points, x, axis.y)}L{_path(floor[::-1], x, axis.y)}Z"
            shapes.append(tag("path", tip(one.label), class_=f"area {one.css}", d=outline))
        elif points:
            shapes.append(tag("path", class_=f"line {one.css}", d=f"M{_path(points, x, axis.y)}"))
            shapes += _dots(one, points, x, axis.y, (x_axis, y_axis))
    return svg(width, chart_height(width), label, *shapes)


def _padded(values: Sequence[float]) -> tuple[float, float]:
    """Range with room above and below, from 0 where the values nearly reach it."""
    low, high = min(values), max(values)
    pad = spread_of(low, high) * 0.06
    return (0.0 if low >= 0 > low - pad else low - pad), high + pad


def spread_of(low: float, high: float) -> float:
    """Distance of two values to draw an axis by; where only rounding tells them apart, their size.

    >>> spread_of(1.0, 3.0), spread_of(2.0, 2.0 + 1e-15) > 1.9, spread_of(0.0, 0.0)
    (2.0, True, 1.0)
    """
    size = max(abs(low), abs(high))
    return high - low if high - low > 1e-9 * size else size or 1.0


def _path(points: Sequence[Point], x: Scale, y: Scale) -> str:
    return "L".join(f"{x(at):.1f} {y(value):.1f}" for at, value in points)


def _dots(one: Series, points: Sequence[Point], x: Scale, y: Scale, axes: tuple[Axis, Axis]) -> list[Markup]:
    marked = one.marked and len(points) <= MARKED_POINTS
    css, radius_px = (f"dot {one.css}", 3) if marked else ("hit", 6)
    return [
        tag(
            "circle",
            tip(f"{one.label}: {axes[1].show(value)} at {axes[0].label} {axes[0].show(at)}"),
            class_=css,
            cx=x(at),
            cy=y(value),
            r=radius_px,
        )
        for at, value in (points if marked else thin(points, TOLD_POINTS))
    ]


def numbers_of_lines(series: Iterable[Series], x_axis: Axis, y_axis: Axis) -> Numbers:
    """Numbers of lines and areas, point by point; curves on which nothing moves say nothing."""
    rows, moves = list[tuple[Cell, ...]](), False
    for one in series:
        for points, name in ((one.points, one.label), (one.floor, f"{one.label}, from")):
            known = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
            rows += [(name, x, y) for x, y in known]
            moves = moves or len({rounded(y) for _, y in known}) > 1
    return Numbers(("curve", *(axis.title(axis.unit) for axis in (x_axis, y_axis))), tuple(rows), not moves)
