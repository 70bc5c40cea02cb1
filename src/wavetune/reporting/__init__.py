"""Reports of run folders: one HTML page, static figures, typed records. Needs no torch."""

from wavetune.reporting.figures import save_figures
from wavetune.reporting.html import write_report
from wavetune.reporting.records import Run, read_run

__all__ = ["Run", "read_run", "save_figures", "write_report"]
