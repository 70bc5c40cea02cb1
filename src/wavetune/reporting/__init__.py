"""Reports of run folders: one HTML page, static figures, typed records. Needs no torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wavetune.records.reading import Run, read_run
    from wavetune.reporting.figures import save_figures
    from wavetune.reporting.html import write_report

__all__ = ["Run", "read_run", "save_figures", "write_report"]
_HOMES = {
    "Run": "wavetune.records.reading",
    "read_run": "wavetune.records.reading",
    "save_figures": "wavetune.reporting.figures",
    "write_report": "wavetune.reporting.html",
}


def __getattr__(name: str) -> Any:  # imported in use, as `wavetune plan` needs no more than how numbers are written
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
