"""An end to what somebody else's program may compute, where that could go on for ever."""

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def within_cpu_seconds(most: float, otherwise: Exception) -> Generator[None]:
    """Raise `otherwise` in this block once it has computed for so many seconds of the process's time.

    Where the block passes over that, it comes again after as long. It takes a signal, which Python hands to the main
    thread alone: in other threads nothing ends the block.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        raise otherwise

    before = signal.signal(signal.SIGVTALRM, end)
    signal.setitimer(signal.ITIMER_VIRTUAL, most, most)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
