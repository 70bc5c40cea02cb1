"""What figures in files share: made without pyplot, signed with where their numbers are from, the same at every run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

from wavetune.reporting.origin import footnote

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

FORMATS = ("svg", "png")
_LETTERS_AN_INCH = 21  # of 6 points


def new_figure(inches: tuple[float, float]) -> Figure:
    """An empty figure, which pyplot does not keep alive."""
    from matplotlib.figure import Figure  # only where a figure is drawn

    return Figure(figsize=inches, layout="constrained")


def open_frame(axes: Axes, grid: bool = True) -> None:
    """Leave the frame open above and at the right, with faint grid lines."""
    axes.spines[["top", "right"]].set_visible(False)
    if grid:
        axes.grid(True, linewidth=0.4, alpha=0.5)


def plain_ticks(axis: Axis, *factors: float) -> None:
    """Numbers, not powers, on a logarithmic axis: these factors times powers of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_major_locator(LogLocator(subs=factors))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def sign(figure: Figure, origin: Mapping[str, str], command: str) -> None:
    """Say at the foot where the numbers are from, in lines that are broken here: Matplotlib would measure each word."""
    letters = int(figure.get_figwidth() * _LETTERS_AN_INCH)
    text = "\n".join(fill(line, letters) for line in footnote(origin, command).splitlines())
    figure.supxlabel(text, fontsize=6)


def save(figure: Figure, stem: Path, dots_per_inch: int = 150, formats: tuple[str, ...] = FORMATS) -> list[Path]:
    """Save `stem`.svg and `stem`.png, with neither a date nor random names; their paths."""
    from matplotlib import rc_context

    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # what was laid out is kept, for all formats
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in formats]
    for path in paths:
        with rc_context({"svg.hashsalt": "wavetune"}):
            figure.savefig(path, dpi=dots_per_inch, metadata={"Date": None} if path.suffix == ".svg" else None)
    return paths
