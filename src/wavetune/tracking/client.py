"""What all trackers share: events of a run become parameters, numbers by step and files, sent by a thread of its own.

A client that waits for the network never holds the run up; one that fails is told of in one line and left out.
"""

import json
import queue
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from wavetune.callbacks import Callback, told, without_secrets
from wavetune.errors import WavetuneError
from wavetune.federation.run_folder import write_whole
from wavetune.logs import LOG
from wavetune.records.alignment import AlignmentStep
from wavetune.records.fields import flat
from wavetune.records.rounds import Round
from wavetune.records.scalars import of_alignment, of_round

PATIENCE_S = 60.0  # that the end of a run waits for what is still to be sent
PROJECT = "wavetune"


class Client(Protocol):
    """One run of a tracker's."""

    @property
    def key(self) -> str:
        """By which the same run is opened again."""
        ...

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Note numbers of a step."""

    def files(self, paths: list[Path]) -> None:
        """Keep files beside the run."""

    def close(self, finished: bool) -> None:
        """End the run."""


Open = Callable[[str, Path, str | None, Mapping[str, Any]], Client]
"""Opens a run of this name for a run folder, with the recipe by dotted paths; a key is of the run to go on with."""


class Tracking(Callback):
    """A callback that hands what happens to a tracker's client."""

    def __init__(self, name: str, open_client: Open) -> None:
        self.title, self._name, self._open = f"the tracker {name}", name, open_client
        self._todo: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._client: Client | None = None
        self._thread: threading.Thread | None = None
        self._finished, self._rounds = False, 0

    def started(self, folder: Path, recipe: Mapping[str, Any], rounds_done: int) -> None:
        """Open the tracker's run, or that of before the stop, with the recipe and the plan."""
        self._rounds = int(recipe["run"]["rounds"])
        values = {name: without_secrets(v) if isinstance(v, str) else v for name, v in flat(recipe).items()}
        self._thread = threading.Thread(target=self._work, name=self.title, daemon=True)
        self._thread.start()
        self._todo.put(lambda: self._begin(folder, values))

    def round(self, record: Round) -> None:
        """Note its numbers; the step is how many rounds are done."""
        self._do(lambda client: client.log(of_round(record), record.round + 1))

    def aligned(self, record: AlignmentStep) -> None:
        """Note its numbers; steps count on from the rounds."""
        self._do(lambda client: client.log(of_alignment(record), self._rounds + record.step + 1))

    def finished(self, folder: Path, summary: Mapping[str, Any]) -> None:
        """Keep summary and report."""
        self._finished = True
        self._do(lambda client: client.files(_there(folder, "summary.json", "report.html")))

    def closed(self) -> None:
        """Send what is left, but wait no longer than `PATIENCE_S`."""
        if self._thread is None:
            return
        self._do(lambda client: client.close(self._finished))
        self._todo.put(None)
        self._thread.join(PATIENCE_S)
        if self._thread.is_alive():
            LOG.warning(
                f"{self.title} has not taken everything within {PATIENCE_S:g} s; the run is whole in its folder"
            )

    def _begin(self, folder: Path, values: Mapping[str, Any]) -> None:
        kept = folder / "trackers" / f"{self._name}.json"
        key = json.loads(kept.read_text(encoding="utf-8"))["run"] if kept.exists() else None
        self._client = self._open(folder.resolve().name, folder, key, values)
        write_whole(kept, json.dumps({"run": self._client.key}) + "\n")
        self._client.files(_there(folder, "recipe.json", "plan.json"))

    def _do(self, act: Callable[[Client], None]) -> None:
        def call() -> None:
            assert self._client is not None
            act(self._client)

        self._todo.put(call)

    def _work(self) -> None:
        """Do in order what is handed on; after a failure nothing more."""
        while (call := self._todo.get()) is not None:
            try:
                call()
            except (Exception, SystemExit) as error:  # whatever the library raises
                reason = str(error) if isinstance(error, WavetuneError) else told(error)
                LOG.warning(f"{self.title} is left out from here on, the run goes on: {reason}")
                return


def _there(folder: Path, *names: str) -> list[Path]:
    return [folder / name for name in names if (folder / name).exists()]
