"""The report of a run as a page that renews itself while the run goes on."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from pathlib import Path

from wavetune.console import visible
from wavetune.local_http import Answer, Pages
from wavetune.reporting.html import TEMPLATE, render
from wavetune.reporting.live import Live, live_of


@dataclass
class Watch:
    """The pages of one run: the report, and what goes on now. Nothing else of its folder is ever sent."""

    folder: Path
    _lock: threading.Lock = field(default_factory=threading.Lock)  # one reader of the records at a time

    def pages(self) -> Pages:
        """What is answered under which path."""
        return {"/": self.report, "/live": self.now}

    def report(self) -> Answer:
        """The report with what goes on now above it."""
        with self._lock:
            live, run = live_of(self.folder)
            return Answer(render([run] if run else [], live))

    def now(self) -> Answer:
        """What goes on, as markup, and the version of the report that belongs to it."""
        with self._lock:
            live: Live = live_of(self.folder)[0]
        html = visible(TEMPLATE("live.html.j2").render(live=live))
        return Answer(json.dumps({"version": live.version, "html": html}), "application/json")
