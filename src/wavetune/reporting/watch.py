"""The report of a run as a page that renews itself while the run goes on."""

import json
import threading
from dataclasses import dataclass, field
from pathlib import Path

from wavetune.console import visible
from wavetune.local_http import Answer, Pages
from wavetune.records.reading import Run
from wavetune.reporting.html import render
from wavetune.reporting.live import Live, live_of, records_of, version
from wavetune.templating import template


@dataclass
class Watch:
    """The pages of one run: the report, and what goes on now. Nothing else of its folder is ever sent."""

    folder: Path
    _lock: threading.Lock = field(default_factory=threading.Lock)  # one reader of the records at a time
    _read: tuple[str, Run | None] = ("-", None)  # the records, and their version

    def pages(self) -> Pages:
        """What is answered under which path."""
        return {"/": self.report, "/live": self.now}

    def look(self) -> tuple[Live, Run | None]:
        """What goes on now, and the records, which are read where they changed."""
        with self._lock:
            seen = version(self.folder)
            if seen != self._read[0]:
                self._read = seen, records_of(self.folder)
            run = self._read[1]
            return live_of(self.folder, run, seen), run

    def report(self) -> Answer:
        """The report with what goes on now above it."""
        live, run = self.look()
        return Answer(render([run] if run else [], live))

    def now(self) -> Answer:
        """What goes on, as markup, and the version of the report that belongs to it."""
        live = self.look()[0]
        html = visible(template(__file__, "live.html.j2", escaped=True).render(live=live))
        return Answer(json.dumps({"version": live.version, "html": html}), "application/json")
