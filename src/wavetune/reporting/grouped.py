"""Horizontal bars in groups: several measures of each client side by side."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from wavetune.reporting.bars import LEAST_PX, Show
from wavetune.reporting.chart import NARROW_PX
from wavetune.reporting.numbers import Numbers, rounded
from wavetune.reporting.svg import Scale, fit, svg, tag, text_width, tip

BAR_PX, GAP_PX, DOT_PX = 12, 12, 4.5


@dataclass(frozen=True)
class Group:
    """The bars under one name: colour class, what it is, value; a value that is not finite has no bar."""

    label: str
    bars: tuple[tuple[str, str, float], ...]


def grouped_chart(
    groups: Sequence[Group], show: Show, label: str, width: int, by_factor: bool = False
) -> Markup | None:
    """Groups of bars on a common scale from 0, each with its value at its end; None if there is no value above 0.

    With `by_factor` values are dots on a logarithmic scale, for what differs by orders of magnitude. On a narrow screen
    names stand above their groups, which then have the whole width.
    """
    known = [v for group in groups for _, _, v in group.bars if math.isfinite(v) and v > 0]
    if not known:
        return None
    largest = max(known)
    narrow = width <= NARROW_PX
    name_px = 0.0 if narrow else min(max(text_width(group.label) for group in groups) + 10, width * 0.3)
    words_px = max(text_width(show(v)) for group in groups for _, _, v in group.bars) + 8
    x = Scale(0.0, largest, name_px, width - words_px)
    if by_factor:
        x = Scale(math.log10(min(known)), math.log10(largest), name_px + DOT_PX, width - words_px - DOT_PX)
    draw = _dot if by_factor else _bar
    shapes, top = list[Markup](), 0.0
    for group in groups:
        if narrow:
            shapes.append(tag("text", tip(group.label), fit(group.label, width), class_="name", x=0, y=top + 13))
            top += 18
        else:
            middle, words = top + len(group.bars) * BAR_PX / 2 + 4, fit(group.label, name_px - 8)
            shapes.append(
                tag("text", tip(group.label), words, class_="name", x=name_px - 8, y=middle, text_anchor="end")
            )
        for css, what, value in group.bars:
            shapes += draw(group.label, css, what, value, x, top, show)
            top += BAR_PX
        top += GAP_PX
    return svg(width, top - GAP_PX + 2, label, *shapes)


def _bar(name: str, css: str, what: str, value: float, x: Scale, top: float, show: Show) -> list[Markup]:
    length = max(x(value) - x(0.0), LEAST_PX) if math.isfinite(value) else 0.0
    words = tip(f"{name}, {what}: {show(value)}")
    bar = tag("rect", words, class_=f"fill {css}", x=x(0.0), y=top + 1, width=length, height=BAR_PX - 2)
    return [bar, tag("text", show(value), class_="small", x=x(0.0) + length + 5, y=top + BAR_PX - 2)]


def _dot(name: str, css: str, what: str, value: float, x: Scale, top: float, show: Show) -> list[Markup]:
    at = x(math.log10(value)) if math.isfinite(value) and value > 0 else x.start_px
    words, middle = tip(f"{name}, {what}: {show(value)}"), top + BAR_PX / 2
    shapes = [tag("line", class_="grid", x1=x.start_px, x2=at, y1=middle, y2=middle)]
    if value > 0:
        shapes.append(tag("circle", words, class_=f"fill {css}", cx=at, cy=middle, r=DOT_PX))
    return [*shapes, tag("text", show(value), class_="small", x=at + DOT_PX + 4, y=top + BAR_PX - 2)]


def numbers_of_groups(groups: Sequence[Group], unit: str = "") -> Numbers:
    """Numbers of bars in groups."""
    rows = tuple((group.label, what, value) for group in groups for _, what, value in group.bars)
    values = {rounded(value) for _, _, value in rows if math.isfinite(value)}
    return Numbers(("group", "what", f"value ({unit})" if unit else "value"), rows, len(values) < 2)
