"""Workers in the process of the test, where starting Ray would show nothing more.

What is asked and answered is written and read as between processes.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from helpers.runs import Silent
from wavetune.recipe import Recipe
from wavetune.runtimes.engine import Engine
from wavetune.runtimes.fleet import WorkerLostError
from wavetune.runtimes.inprocess import run
from wavetune.runtimes.session import Session
from wavetune.runtimes.sliced import job_of, slices_of, training_in
from wavetune.runtimes.worker import StateLostError, Worker


class Here:
    """A fleet in this process; `before` is called with it and the method before every request."""

    def __init__(self, session: Session, workers: int, before: Callable[[Here, str], None]) -> None:
        self.slices, self.job, self.before = slices_of(session, workers), job_of(session), before
        self.workers = [self.fresh(worker) for worker in range(workers)]

    def fresh(self, worker: int) -> Worker:
        """A worker as it is when its process has just been started."""
        return Worker(self.job, self.slices[worker], "cpu")

    def ask(self, method: str, requests: Any, again: bool = False) -> list[Any]:
        self.before(self, method)
        try:
            return [crossed(getattr(self.workers[worker], method)(*crossed(given))) for worker, given in requests]
        except StateLostError as error:
            assert not again
            raise WorkerLostError("a worker was started again") from error

    def share(self, value: Any) -> Any:
        return value


def crossed(value: Any) -> Any:
    """A value as it arrives in another process."""
    return pickle.loads(pickle.dumps(value))


def workers_here(workers: int, before: Callable[[Here, str], None] = lambda _fleet, _method: None) -> Engine:
    @contextmanager
    def opened(session, say):
        with training_in(session, Here(session, workers, before), say) as trainer:
            yield trainer

    return opened


def train_in_workers(recipe: Recipe, out: Path, engine: Engine, resume: bool = False) -> Silent:
    observer = Silent()
    run(recipe, out, observer, resume, engine)
    return observer
