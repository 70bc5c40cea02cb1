"""Processes of one numeric thread each, which end with the process that started them."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from typing import Any

from wavetune.errors import RunFolderError

Each = Callable[[Callable[..., Any], Sequence[tuple[Any, ...]]], Iterator[Any]]

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "RAYON_NUM_THREADS")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def workers(jobs: int, what: str, first: Callable[[], None] | None = None) -> Generator[Each]:
    """How to call a function on several argument tuples: here, or in processes and then in the order they finish.

    Each process calls `first` before it imports the function.

    Raises: RunFolderError where a process was killed; `what` is then said to have stopped.
    """
    if jobs <= 1:
        yield lambda function, arguments: (function(*a) for a in arguments)
        return
    # Spawned, as forking a process with threads may hang it.
    context, others = multiprocessing.get_context("spawn"), set(multiprocessing.active_children())
    with _one_numeric_thread(), ProcessPoolExecutor(jobs, context, _start_worker, (first,)) as pool:

        def each(function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
            return (future.result() for future in as_completed([pool.submit(function, *a) for a in arguments]))

        try:
            yield each
        except BaseException as error:
            for worker in set(multiprocessing.active_children()) - others:  # rather than wait for its cell
                worker.terminate()
            pool.shutdown(cancel_futures=True)
            if isinstance(error, BrokenProcessPool):
                raise RunFolderError(
                    f"{what} stopped as one of its processes was killed, perhaps for want of memory; the same command "
                    "with fewer --jobs goes on"
                ) from error
            raise


@contextmanager
def _one_numeric_thread() -> Generator[None]:
    """Processes started in this block compute with one thread each."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def once_parent_is_gone(act: Callable[[], None]) -> None:
    """Call this, on a thread, when the process that holds the other end of the standard input is gone."""

    def wait() -> None:
        with suppress(OSError, ValueError):
            while os.read(0, 1):
                pass
        act()

    threading.Thread(target=wait, daemon=True).start()


def _start_worker(first: Callable[[], None] | None) -> None:
    """Leave Ctrl-C to the parent, and end with it even if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if first is not None:
        first()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
