"""Runs in other processes that a test kills or stops: they cannot end before it does, however long it takes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wavetune.callbacks import Callback
from wavetune.federation.run_folder import write_whole

OPTION = ("--track", f"{__name__}:Held")


def hold(out: Path, count: int) -> None:
    """Let the run in a folder, which was given `OPTION`, do so many rounds, or steps of its alignment, and wait."""
    write_whole(_limit(out), str(count))


def release(out: Path) -> None:
    """Let the run go on to its end."""
    _limit(out).unlink()


class Held(Callback):
    """What makes a run wait."""

    def started(self, folder: Path, recipe: Mapping[str, Any], rounds_done: int) -> None:
        self.limit, self.aligns = _limit(folder), recipe["method"]["alignment"] is not None

    def round(self, record: Any) -> None:
        if not self.aligns:
            self._wait(record.round + 1)

    def aligned(self, record: Any) -> None:
        self._wait(record.step + 1)

    def _wait(self, done: int) -> None:
        while (text := self._read()) and done >= int(text):
            time.sleep(0.02)

    def _read(self) -> str:
        try:
            return self.limit.read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""


def _limit(out: Path) -> Path:
    return out.with_name(f"{out.name}-is-held")
