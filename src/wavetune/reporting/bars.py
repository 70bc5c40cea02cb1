"""Bar charts: horizontal bars and columns, both of stacked parts."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from wavetune.reporting.chart import FOOT_PX, NARROW_PX, Axis, chart_height, value_axis
from wavetune.reporting.numbers import Numbers, rounded
from wavetune.reporting.svg import Scale, fit, svg, tag, text_width, tip

LEAST_PX = 0.8
Part = tuple[str, str, float]  # colour class, name, value
Show = Callable[[float], str]


@dataclass(frozen=True)
class Bar:
    """A bar of stacked parts; `words` stand at its end, `tick` under a column instead of the label."""

    label: str
    parts: tuple[Part, ...]
    words: str = ""
    tick: str = ""

    @property
    def drawn(self) -> list[Part]:
        """Parts that have a length."""
        return [part for part in self.parts if math.isfinite(part[2]) and part[2] > 0]

    @property
    def total(self) -> float:
        """Length of the bar."""
        return sum(value for _, _, value in self.drawn)


def bar_chart(
    bars: Sequence[Bar], show: Show, label: str, width: int, mark: tuple[float, str] | None = None
) -> Markup | None:
    """Horizontal bars on a common scale from 0; `mark` draws a named vertical line. None if all is zero.

    On a narrow screen names and words stand above their bars, which then have the whole width.
    """
    largest = max([bar.total for bar in bars] + ([mark[0]] if mark else []), default=0.0)
    if largest <= 0:
        return None
    narrow = width <= NARROW_PX
    row = 38 if narrow else 30 if len(bars) <= 12 else 22
    name_px = 0.0 if narrow else min(max(text_width(bar.label) for bar in bars) + 10, width * 0.36)
    words_px = 0.0 if narrow else max(text_width(bar.words) for bar in bars) + 8
    x = Scale(0.0, largest, name_px, width - words_px)
    top = 22 if mark else 2
    tops = [top + row * index for index in range(len(bars) + 1)]
    draw = _bar_under_name if narrow else _bar_beside_name
    rows = [draw(bar, y, row, x, show) for bar, y in zip(bars, tops, strict=False)]
    if mark:
        rows += _mark(mark[1], x(mark[0]), width, tops)
    return svg(width, tops[-1] + 4, label, *rows)


def _mark(words: str, at: float, width: int, tops: Sequence[float]) -> list[Markup]:
    """Vertical line with its words; where words stand above the bars, it shows beside the bars only."""
    anchor, shift = ("end", -5) if at > width * 0.6 else ("start", 5)
    parts = [(top + 18, end - 4) for top, end in pairwise(tops)] if width <= NARROW_PX else [(4, tops[-1])]
    lines = [tag("line", tip(words), class_="mark", x1=at, x2=at, y1=start, y2=end) for start, end in parts]
    return [*lines, tag("text", words, class_="axis", x=at + shift, y=12, text_anchor=anchor)]


def _bar_beside_name(bar: Bar, y: float, row: float, x: Scale, show: Show) -> Markup:
    middle, end = y + row / 2 + 4, x.start_px - 8
    name = tag("text", tip(bar.label), fit(bar.label, end), class_="name", x=end, y=middle, text_anchor="end")
    words = tag("text", bar.words, class_="value", x=x(bar.total) + 6, y=middle)
    return tag("g", name, *_parts(bar, y + 4, row - 8, x, show), words)


def _bar_under_name(bar: Bar, y: float, row: float, x: Scale, show: Show) -> Markup:
    room = x.end_px - text_width(bar.words) - 8
    name = tag("text", tip(bar.label), fit(bar.label, room), class_="name", x=0, y=y + 14)
    words = tag("text", bar.words, class_="value", x=x.end_px, y=y + 14, text_anchor="end")
    return tag("g", name, *_parts(bar, y + 20, row - 26, x, show), words)


def _parts(bar: Bar, y: float, tall: float, x: Scale, show: Show) -> list[Markup]:
    start, shapes = 0.0, list[Markup]()
    for css, name, value in bar.drawn:
        left, right = x(start), x(start + value)
        length = max(right - left, LEAST_PX)
        words = tip(_tip(bar, name, show(value)))
        shapes.append(tag("rect", words, class_=f"fill {css}", x=left, y=y, width=length, height=tall))
        start += value
    return shapes


def _tip(bar: Bar, part: str, value: str) -> str:
    return f"{bar.label}, {part}: {value}" if part else f"{bar.label}: {value}"


def column_chart(bars: Sequence[Bar], x_label: str, y_axis: Axis, label: str, width: int) -> Markup | None:
    """Columns from 0, or None if all is zero."""
    largest = max((bar.total for bar in bars), default=0.0)
    if largest <= 0:
        return None
    axis, baseline = value_axis(y_axis, 0.0, largest * 1.04, width, width), chart_height(width) - FOOT_PX
    pitch = (width - axis.left) / len(bars)
    shapes = axis.marks
    for index, bar in enumerate(bars):
        shapes += _column(bar, axis.left + index * pitch, pitch, axis.y, y_axis.show)
    shapes += _column_ticks([bar.tick or bar.label for bar in bars], axis.left, width, baseline + 17)
    shapes.append(tag("line", class_="base", x1=axis.left, x2=width, y1=baseline, y2=baseline))
    middle = (axis.left + width) / 2
    shapes.append(tag("text", x_label, class_="axis", x=middle, y=baseline + 35, text_anchor="middle"))
    return svg(width, chart_height(width), label, *shapes)


def _column(bar: Bar, left: float, pitch: float, y: Scale, show: Show) -> list[Markup]:
    start, shapes = 0.0, list[Markup]()
    gap = min(pitch * 0.2, 6)
    for css, name, value in bar.drawn:
        bottom, top = y(start), y(start + value)
        words, box = tip(_tip(bar, name, show(value))), {"width": pitch - gap, "height": bottom - top}
        shapes.append(tag("rect", words, class_=f"fill {css}", x=left + gap / 2, y=top, **box))
        start += value
    return shapes


def _column_ticks(labels: Sequence[str], left: float, width: float, y: float) -> list[Markup]:
    """Every n-th label, so that none touches the next or the edge."""
    pitch = (width - left) / len(labels)
    room = min(max(map(text_width, labels)) + 10, width / 3)
    every = math.ceil(room / pitch)
    marks: list[Markup] = []
    for index, label in list(enumerate(labels))[::every]:
        words = fit(label, room)
        half = text_width(words) / 2
        at = min(max(left + (index + 0.5) * pitch, half), width - half)
        marks.append(tag("text", words, class_="tick", x=at, y=y, text_anchor="middle"))
    return marks


def numbers_of_bars(bars: Sequence[Bar], unit: str = "", mark: tuple[float, str] | None = None) -> Numbers:
    """Numbers of bars and their parts; one bar alone, without a mark to hold it against, says nothing."""
    rows = tuple((bar.label, part, value) for bar in bars for _, part, value in bar.parts)
    shapes = {tuple(rounded(value) for _, _, value in bar.parts) for bar in bars}
    if mark:
        rows += ((mark[1], "", mark[0]),)
        shapes.add((rounded(mark[0]),))
    return Numbers(("what", "part", f"value ({unit})" if unit else "value"), rows, len(shapes) < 2)
