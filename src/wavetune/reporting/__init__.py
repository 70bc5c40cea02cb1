"""Reports of run folders: one HTML page, static figures, typed records. Needs no torch."""

from wavetune.records.reading import Run, read_run
from wavetune.reporting.figures import save_figures
from wavetune.reporting.html import write_report

__all__ = ["Run", "read_run", "save_figures", "write_report"]
