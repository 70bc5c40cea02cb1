"""What every test shares: one thread a process, no network, and data that lies beside the repository."""

import gc
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from helpers import once
from wavetune.runtimes import forked

# Before anything imports NumPy or torch: tests run in parallel processes, and results must not depend on the machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "agg")
# Also for processes of tests that begin with an empty cache: to compile the kernels takes a minute.
os.environ.setdefault(
    "NUMBA_CACHE_DIR", str(Path(os.environ.get("WAVETUNE_CACHE") or "~/.cache/wavetune").expanduser())
)
os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *os.environ.get("PYTHONPATH", "").split()])
# Whether this machine wants it or not: else pytest would rewrite all tests in each of its processes, and every process
# that a test starts would compile wavetune anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Whoever started pytest may have had it ignore interrupts, as a shell does in the background; tests send some.
signal.signal(signal.SIGINT, signal.default_int_handler)

gc.disable()  # until all is collected

# How long an example takes says nothing about correctness, least of all on a machine with other work.
settings.register_profile(
    "repeatable", derandomize=True, deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("thorough", settings.get_profile("repeatable"), derandomize=False, max_examples=1000)
settings.load_profile("repeatable")


collect_ignore = ["helpers/loaded.py"]
"""What forks begin with plans a run, and so compiles kernels: no process is to wait for that before its first test."""

BEGIN = (
    "tests/end_to_end/test_commands.py",
    "tests/unit/data/",
    "tests/unit/models/",
    "tests/end_to_end/test_clients_that_differ.py",
    "tests/end_to_end/test_flower.py",
)
"""What comes first: while one process compiles kernels, for both, the other needs none, or those of the first alone."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        return next((at for at, start in enumerate(BEGIN) if item.nodeid.startswith(start)), len(BEGIN))

    items.sort(key=place)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder shared/ beside the repository: data sets and reference instances too large to keep in it."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"the reference data is not on this machine (no folder {folder})")
    return folder


@pytest.fixture(scope="session", autouse=True)
def made_once() -> Iterator[None]:
    """Hundreds of runs here have the same problems, rows and weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forked, "LOADED", (*forked.LOADED, "helpers.loaded"))
        patch.setattr(os, "fsync", lambda _: None)  # takes milliseconds, and no test goes on after a loss of power
        once.plan(patch)
        if "torch" in sys.modules:  # a test of what needs it was collected
            once.load(patch)
        yield


@pytest.fixture(scope="module", autouse=True)
def kept() -> None:
    """What earlier files of tests loaded stays as well."""
    gc.collect()
    gc.freeze()


def pytest_collection_finish() -> None:
    """What was collected stays: no garbage is looked for in it, neither while it grows nor later."""
    gc.freeze()
    gc.set_threshold(50_000)  # as in wavetune's own processes
    gc.enable()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Keep how long every test took, with what it set up, the longest first."""
    seconds = Counter[str]()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seconds[report.nodeid] += report.duration
    file = terminalreporter.config.rootpath / "build" / "durations.txt"
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(f"{took:8.2f} s  {name}\n" for name, took in seconds.most_common()), encoding="utf-8")
