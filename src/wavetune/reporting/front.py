"""Two measures against each other: every client moves from where it stood to where it stands, with intervals."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from wavetune.estimate import Estimate
from wavetune.reporting.chart import FOOT_PX, NARROW_PX, Axis, base_axis, value_axis
from wavetune.reporting.lines import spread_of
from wavetune.reporting.svg import Scale, svg, tag, text_width, tip

HEAD_PX = 7


@dataclass(frozen=True)
class Move:
    """A client's two measures before and after; `label` stands beside the point, `words` are its tooltip."""

    label: str
    css: str
    words: str
    before: tuple[Estimate, Estimate]
    after: tuple[Estimate, Estimate]


def front_chart(moves: Sequence[Move], x_axis: Axis, y_axis: Axis, label: str, width: int) -> Markup | None:
    """Arrows from before to after with a cross of intervals at the end; None without a finite point."""
    known = [move for move in moves if all(math.isfinite(e.mean) for e in (*move.before, *move.after))]
    if not known:
        return None
    height = round((0.98 if width > NARROW_PX else 1.0) * width)
    right, baseline = width - 34, height - FOOT_PX
    ranges = [_range(e for move in known for e in (move.before[i], move.after[i])) for i in (0, 1)]
    axis = value_axis(y_axis, *ranges[1], width, right, height)
    x = Scale(*ranges[0], axis.left, right)
    shapes = [*axis.marks, *base_axis(x, x_axis, baseline)]
    for move in known:
        shapes += _arrow(move, x, axis.y)
    shapes += _labels(known, x, axis.y, right)
    return svg(width, height, label, *shapes)


def _range(estimates: Iterable[Estimate]) -> tuple[float, float]:
    """Range of the values and their intervals with room around."""
    ends = [(one.mean - _half(one), one.mean + _half(one)) for one in estimates]
    low, high = min(start for start, _ in ends), max(end for _, end in ends)
    pad = 0.08 * spread_of(low, high)
    return low - pad, high + pad


def _half(estimate: Estimate) -> float:
    return estimate.half_width if math.isfinite(estimate.half_width) else 0.0


def _arrow(move: Move, x: Scale, y: Scale) -> list[Markup]:
    across, up = move.after
    start, end = (x(move.before[0].mean), y(move.before[1].mean)), (x(across.mean), y(up.mean))
    shapes = [tag("circle", tip(f"{move.words}, before"), class_=f"dot {move.css}", cx=start[0], cy=start[1], r=3)]
    if half := _half(across):
        span = {"x1": x(across.mean - half), "x2": x(across.mean + half), "y1": end[1], "y2": end[1]}
        shapes.append(tag("line", class_=f"whisker {move.css}", **span))
    if half := _half(up):
        span = {"x1": end[0], "x2": end[0], "y1": y(up.mean - half), "y2": y(up.mean + half)}
        shapes.append(tag("line", class_=f"whisker {move.css}", **span))
    shapes.append(tag("line", class_=f"line {move.css}", x1=start[0], y1=start[1], x2=end[0], y2=end[1]))
    if math.dist(start, end) > HEAD_PX:
        shapes.append(_head(start, end, move.css))
    shapes.append(tag("circle", tip(move.words), class_=f"fill {move.css}", cx=end[0], cy=end[1], r=4.5))
    return shapes


def _head(start: tuple[float, float], end: tuple[float, float], css: str) -> Markup:
    angle = math.atan2(end[1] - start[1], end[0] - start[0])
    tip_at = (end[0] - 4 * math.cos(angle), end[1] - 4 * math.sin(angle))
    wings = [
        (tip_at[0] - HEAD_PX * math.cos(angle + turn), tip_at[1] - HEAD_PX * math.sin(angle + turn))
        for turn in (0.5, -0.5)
    ]
    points = " ".join(f"{at:.1f},{down:.1f}" for at, down in (tip_at, *wings))
    return tag("polygon", class_=f"fill {css}", points=points)


def _labels(moves: Sequence[Move], x: Scale, y: Scale, right: float) -> list[Markup]:
    """Names beside the points, moved down where two would touch."""
    shapes, taken = list[Markup](), list[tuple[float, float, float]]()
    for move in sorted(moves, key=lambda one: y(one.after[1].mean)):
        wide = text_width(move.label)
        left = x(move.after[0].mean) + 8
        left = left if left + wide <= right + 30 else left - wide - 16
        line = y(move.after[1].mean) - 6
        while any(abs(line - other) < 13 and left < end and start < left + wide for other, start, end in taken):
            line += 4
        taken.append((line, left, left + wide))
        shapes.append(tag("text", move.label, class_="place", x=left, y=line))
    return shapes
