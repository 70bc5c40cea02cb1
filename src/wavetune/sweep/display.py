"""What a person sees of a sweep: a progress bar on a terminal, else a plain line every tenth of the way."""

from __future__ import annotations

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from wavetune.console import Console


class SweepDisplay:
    """Shows how many data sets are counted and cells planned."""

    def __init__(self, console: Console) -> None:
        self.console, self.live = console, console.is_terminal
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.completed}/{task.total}"),
        )
        self.bar = Progress(*columns, TimeRemainingColumn(), console=console, disable=not self.live)
        self.tasks: dict[str, TaskID] = {}
        self.tenths: dict[str, int] = {}

    def __enter__(self) -> SweepDisplay:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def progress(self, what: str, done: int, total: int) -> None:
        """So many of `what` are done."""
        if what not in self.tasks:
            self.tasks[what] = self.bar.add_task(what)
        self.bar.update(self.tasks[what], completed=done, total=total)
        tenth = 10 * done // max(total, 1)
        if not self.live and tenth > self.tenths.get(what, 0):
            self.tenths[what] = tenth
            self.console.print(f"{what} {done}/{total}", highlight=False)
