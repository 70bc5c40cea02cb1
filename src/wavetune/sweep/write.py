"""The files that a finished sweep leaves: figure, table and reading."""

from __future__ import annotations

from pathlib import Path

from wavetune.federation.run_folder import ELSEWHERE, explained, write_whole
from wavetune.sweep.figure import save_figure
from wavetune.sweep.summary import Summary, reading, table


def write_outcome(summary: Summary, folder: Path) -> str:
    """Write figure.svg, figure.png, table.csv and reading.txt into a folder; returns the reading."""
    words = reading(summary)
    write_whole(folder / "table.csv", table(summary), ELSEWHERE)
    write_whole(folder / "reading.txt", words + "\n", ELSEWHERE)
    with explained(folder, ELSEWHERE):
        save_figure(summary, folder / "figure")
    return words
