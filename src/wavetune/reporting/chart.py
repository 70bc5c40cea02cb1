"""What charts share: a figure with its words in two widths, axes with units, legend entries, numbers as a table."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from wavetune.reporting import format as fmt
from wavetune.reporting.numbers import Numbers
from wavetune.reporting.svg import Scale, tag, text_width, tick_labels, ticks

WIDE_PX, FULL_PX, NARROW_PX = 540, 1096, 330
TOP_PX, FOOT_PX = 30, 42  # room for the title of the vertical axis, and for the horizontal axis with its own


@dataclass(frozen=True)
class Key:
    """One entry of a legend: a colour class and what it stands for."""

    css: str
    label: str
    shape: str = "box"  # box | line | area | none


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first cell of a row is its header. `totals` are the rows that sum up those below them.

    `kind` is a class of the style sheet: grouped (by its totals), compare (columns of equal width) or none.
    """

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    totals: frozenset[int] = frozenset()
    kind: str = ""


@dataclass(frozen=True)
class Figure:
    """A chart in both widths with its words, and its numbers as a table where a reader may want them."""

    title: str
    wide: Markup
    narrow: Markup
    caption: str = ""
    keys: tuple[Key, ...] = ()
    table: Table | None = None
    span: str = "half"  # half | full | tall (two rows high) | solo (a half chart with its words beside it)
    numbers: Numbers | None = None

    @property
    def file_name(self) -> str:
        """Name of a file of this chart, without its suffix.

        >>> Figure("Loss against rounds", Markup(), Markup()).file_name
        'loss-against-rounds'
        """
        return re.sub("[^a-z0-9]+", "-", self.title.lower()).strip("-")


def figure(
    title: str,
    draw: Callable[[int], Markup | None],
    caption: str = "",
    keys: tuple[Key, ...] = (),
    table: Table | None = None,
    span: str = "half",
    numbers: Numbers | None = None,
) -> Figure | None:
    """Draw a chart for a wide and for a narrow screen; None if there is nothing to draw, or all values are alike."""
    if numbers and numbers.alike:
        return None
    wide, narrow = draw(FULL_PX if span == "full" else WIDE_PX), draw(NARROW_PX)
    return Figure(title, wide, narrow, caption, keys, table, span, numbers) if wide and narrow else None


@dataclass(frozen=True)
class Axis:
    """What an axis shows: its words and the unit whose prefix follows the size of the values."""

    label: str
    unit: str = ""
    whole: bool = False

    def title(self, unit: str) -> str:
        """Label with the unit that was chosen."""
        return f"{self.label} ({unit})" if unit else self.label

    def show(self, value: float) -> str:
        """Value in words.

        >>> Axis("delay", "s").show(90.0), Axis("round", whole=True).show(2.0), Axis("loss").show(2.1182)
        ('1 min 30 s', '2', '2.118')
        """
        if self.whole:
            return fmt.count(value)
        if self.unit == "s":
            return fmt.seconds(value)
        return fmt.si(value, self.unit) if self.unit else fmt.number(value, 4)


def chart_height(width: float) -> float:
    """Height of a chart with two axes."""
    return round(0.5 * width) if width > NARROW_PX else 240


@dataclass(frozen=True)
class ValueAxis:
    """The drawn vertical axis: its scale, its marks and grid lines, and where the plot begins."""

    y: Scale
    left: float
    marks: list[Markup]


def value_axis(
    axis: Axis, low: float, high: float, width: float, right: float, height: float | None = None
) -> ValueAxis:
    """Draw a vertical axis from `low` to `high` with grid lines up to `right`."""
    height = height or chart_height(width)
    divisor, unit = fmt.axis_unit(axis.unit, high)
    values = ticks(low / divisor, high / divisor, 5)
    labels = tick_labels(values)
    left = max(map(text_width, labels)) + 12
    y = Scale(low, high, height - FOOT_PX, TOP_PX)
    marks = [tag("text", axis.title(unit), class_="axis", x=0, y=12)]
    for value, words in zip(values, labels, strict=True):
        at = y(value * divisor)
        marks.append(tag("line", class_="grid", x1=left, x2=right, y1=at, y2=at))
        marks.append(tag("text", words, class_="tick", x=left - 6, y=at + 4, text_anchor="end"))
    return ValueAxis(y, left, marks)


def base_axis(x: Scale, axis: Axis, baseline_px: float) -> list[Markup]:
    """Draw a horizontal axis: base line, ticks with labels, title."""
    divisor, unit = fmt.axis_unit(axis.unit, x.high)
    values: Sequence[float] = ticks(x.low / divisor, x.high / divisor, max(2, int((x.end_px - x.start_px) / 52)))
    if axis.whole:
        values = [value for value in values if value == int(value)]
    marks = [tag("line", class_="base", x1=x.start_px, x2=x.end_px, y1=baseline_px, y2=baseline_px)]
    for value, words in zip(values, tick_labels(values), strict=True):
        at = x(value * divisor)
        marks.append(tag("line", class_="base", x1=at, x2=at, y1=baseline_px, y2=baseline_px + 4))
        marks.append(tag("text", words, class_="tick", x=at, y=baseline_px + 17, text_anchor="middle"))
    middle = (x.start_px + x.end_px) / 2
    title = tag("text", axis.title(unit), class_="axis", x=middle, y=baseline_px + 35, text_anchor="middle")
    return [*marks, title]
