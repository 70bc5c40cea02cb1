"""Horizontal bars in groups: several measures of each client side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from wavetune.reporting.bars import LEAST_PX, Show
from wavetune.reporting.chart import NARROW_PX
from wavetune.reporting.svg import Scale, fit, svg, tag, text_width, tip

BAR_PX, GAP_PX = 12, 12


@dataclass(frozen=True)
class Group:
    """The bars under one name: colour class, what it is, value; a value that is not finite has no bar."""

    label: str
    bars: tuple[tuple[str, str, float], ...]


def grouped_chart(groups: Sequence[Group], show: Show, label: str, width: int) -> Markup | None:
    """Groups of bars on a common scale from 0, each with its value at its end; None if there is no value above 0.

    On a narrow screen names stand above their groups, which then have the whole width.
    """
    largest = max((v for group in groups for _, _, v in group.bars if math.isfinite(v)), default=0.0)
    if largest <= 0:
        return None
    narrow = width <= NARROW_PX
    name_px = 0.0 if narrow else min(max(text_width(group.label) for group in groups) + 10, width * 0.3)
    words_px = max(text_width(show(v)) for group in groups for _, _, v in group.bars) + 8
    x = Scale(0.0, largest, name_px, width - words_px)
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
            shapes += _bar(group.label, css, what, value, x, top, show)
            top += BAR_PX
        top += GAP_PX
    return svg(width, top - GAP_PX + 2, label, *shapes)


def _bar(name: str, css: str, what: str, value: float, x: Scale, top: float, show: Show) -> list[Markup]:
    length = max(x(value) - x(0.0), LEAST_PX) if math.isfinite(value) else 0.0
    words = tip(f"{name}, {what}: {show(value)}")
    bar = tag("rect", words, class_=f"fill {css}", x=x(0.0), y=top + 1, width=length, height=BAR_PX - 2)
    return [bar, tag("text", show(value), class_="small", x=x(0.0) + length + 5, y=top + BAR_PX - 2)]
