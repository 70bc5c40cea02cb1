"""SVG from plain functions: escaped elements, scales with round ticks, and text that is known to fit.

Colours are never written here: an element carries a class, and the style sheet gives the class a colour in each scheme.
"""

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

FONT_PX = 12.0
_SMALLEST, _FINEST = 1e-290, 1e-12  # an axis shows no smaller values, and no finer differences of its values


def tag(name: str, *children: str, **attributes: str | float | None) -> Markup:
    """Build an element; children and attribute values are escaped unless they are markup, `class_` means class.

    >>> print(tag("text", "a < b", class_="tick", x=1.234, text_anchor="end"))
    <text class="tick" x="1.23" text-anchor="end">a &lt; b</text>
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_short(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{written}>{''.join(escape(child) for child in children)}</{name}>")


def _short(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")


def svg(width: float, height: float, label: str, *children: str) -> Markup:
    """Drawing of a natural size that scales down with its column; `label` says in words what it shows."""
    return tag(
        "svg",
        *children,
        viewBox=f"0 0 {_short(width)} {_short(height)}",
        width=width,
        height=height,
        role="img",
        aria_label=label,
    )


def tip(words: str) -> Markup:
    """Tooltip of the element it is put into."""
    return tag("title", words)


def text_width(words: str, size_px: float = FONT_PX) -> float:
    """Upper estimate of the width of text in a system sans-serif font, in px.

    >>> text_width("") == 0 and text_width("MW") > text_width("il")
    True
    """
    return size_px * sum(_em(letter) for letter in words)


def _em(letter: str) -> float:
    if unicodedata.east_asian_width(letter) in "WF":
        return 1.0
    if letter in "ijlI.,:;'|! ()[]/ft·":
        return 0.4
    if letter in "MWm@%…→":
        return 1.0
    return 0.84 if letter in "+−w=<>" else 0.78 if letter.isupper() else 0.64


def fit(words: str, room_px: float, size_px: float = FONT_PX) -> str:
    """Text shortened with an ellipsis to the room there is.

    >>> fit("sensor", 100), fit("a very long device name", 60)
    ('sensor', 'a very…')
    """
    if text_width(words, size_px) <= room_px:
        return words
    while words and text_width(words + "…", size_px) > room_px:
        words = words[:-1]
    return words.rstrip() + "…"


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) within [low, high], about `wanted` of them.

    >>> ticks(0, 9.3), ticks(2.1, 3.4, 4)
    ([0.0, 2.0, 4.0, 6.0, 8.0], [2.5, 3.0])
    """
    wanted = max(wanted, 2)
    rough = high / wanted - low / wanted  # the difference itself may be beyond all floats
    if not rough > max(abs(low), abs(high), _SMALLEST) * _FINEST:
        return [low]
    exponent = math.floor(math.log10(rough))
    power = 10.0**exponent
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, max(12, 1 - exponent)) for index in range(first, last + 1)]


def tick_labels(values: Sequence[float]) -> list[str]:
    """Labels with as many digits as the step between ticks needs; very large and very small ones with exponents.

    >>> tick_labels([0.0, 0.5, 1.0]), tick_labels([0.0, 2e7])
    (['0', '0.5', '1.0'], ['0', '2e7'])
    """
    if len(values) < 2:
        return [f"{value:.3g}".replace("-", "−") for value in values]
    largest, last = max(map(abs, values)), math.floor(math.log10(values[1] - values[0]) + 1e-9)
    if 1e-3 <= largest < 1e7:
        fixed = (f"{value:,.{max(0, -last)}f}" if value else "0" for value in values)
        return [label.replace(",", "\u202f").replace("-", "−") for label in fixed]
    digits = max(0, math.floor(math.log10(largest)) - last)
    parts = (f"{value:.{digits}e}".split("e") for value in values)
    labels = [f"{mantissa}e{int(exponent)}" if float(mantissa) else "0" for mantissa, exponent in parts]
    return [label.replace("-", "−") for label in labels]


@dataclass(frozen=True)
class Scale:
    """Linear map of values [low, high] onto pixels [start_px, end_px]."""

    low: float
    high: float
    start_px: float
    end_px: float

    def __call__(self, value: float) -> float:
        """Pixel of a value.

        >>> Scale(0.0, 2.0, 100.0, 0.0)(0.5)
        75.0
        """
        low, span = self.low / 2, self.high / 2 - self.low / 2 or 0.5  # halves: a difference may overflow
        return self.start_px + (value / 2 - low) / span * (self.end_px - self.start_px)
