"""What computes for too long is ended, and nothing else is touched."""

import signal
import threading
import time
from contextlib import suppress

import pytest

from wavetune.cpu_limit import within_cpu_seconds


def compute_within(seconds, passed_over=0):
    """Compute without an end, and pass over so many errors."""
    with within_cpu_seconds(seconds, KeyError("too long")):
        for _ in range(passed_over):
            with suppress(KeyError):
                compute()
        compute()


def compute():
    while True:
        pass


def test_a_block_that_computes_for_too_long_ends_with_the_error_that_was_given():
    own = signal.getsignal(signal.SIGVTALRM)
    with pytest.raises(KeyError, match="too long"):
        compute_within(0.05)
    assert signal.getsignal(signal.SIGVTALRM) == own


def test_an_end_that_the_block_passes_over_comes_again():
    with pytest.raises(KeyError, match="too long"):
        compute_within(0.05, passed_over=2)


def test_a_block_that_waits_or_is_over_in_time_is_let_be():
    with within_cpu_seconds(0.05, KeyError("too long")):
        time.sleep(0.1)
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)


def test_in_another_thread_a_block_is_done_without_a_limit():
    done = list[int]()

    def block():
        with within_cpu_seconds(1e-6, KeyError("too long")):
            done.append(sum(range(10**6)))

    thread = threading.Thread(target=block)
    thread.start()
    thread.join()
    assert done == [sum(range(10**6))]
