"""The numbers behind a chart: rows for a spreadsheet, and whether there is anything to see in them."""

import csv
import io
import math
from dataclasses import dataclass
from urllib.parse import quote

Cell = str | float | int
_DIGITS = 9  # of a value that is written; what agrees in them is alike


@dataclass(frozen=True)
class Numbers:
    """Rows under a head; `alike` where all values are the same, so that a chart of them would say nothing."""

    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    alike: bool = False

    def csv(self) -> str:
        """The rows as CSV; a number that is not finite is an empty cell, and no text reads as a formula.

        >>> Numbers(("client", "delay (s)"), (("=1+1", 0.5), ("b", float("nan")))).csv()
        "client,delay (s)\\n'=1+1,0.5\\nb,\\n"
        """
        file = io.StringIO()
        csv.writer(file, lineterminator="\n").writerows([map(_plain, row) for row in (self.head, *self.rows)])
        return file.getvalue()

    @property
    def link(self) -> str:
        """The CSV as an address that a browser saves without any network."""
        return "data:text/csv;charset=utf-8," + quote(self.csv(), safe=", ()")


def _plain(cell: Cell) -> Cell:
    if isinstance(cell, str):
        return f"'{cell}" if cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell
    return (cell if isinstance(cell, int) else f"{cell:.{_DIGITS}g}") if math.isfinite(cell) else ""


def rounded(value: float) -> float:
    """A value to so many digits that rounding errors do not count; what is not finite is one and the same."""
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else math.inf
