"""What a person sees of a sweep: a progress bar on a terminal, else a plain line every tenth of the way."""

from __future__ import annotations

from rich.progress import TaskID

from wavetune.console import Console
from wavetune.logs import LOG
from wavetune.terminal import Bars


class SweepDisplay:
    """Shows how many data sets are counted and cells planned."""

    def __init__(self, console: Console | None = None) -> None:
        self.bars = Bars(console)
        self.tasks: dict[str, TaskID] = {}
        self.tenths: dict[str, int] = {}

    def __enter__(self) -> SweepDisplay:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def progress(self, what: str, done: int, total: int) -> None:
        """So many of `what` are done."""
        if what not in self.tasks:
            self.tasks[what] = self.bars.add_task(what)
        self.bars.update(self.tasks[what], completed=done, total=total)
        tenth = 10 * done // max(total, 1)
        if self.bars.disable and tenth > self.tenths.get(what, 0):
            self.tenths[what] = tenth
            LOG.info(f"{what} {done}/{total}")
