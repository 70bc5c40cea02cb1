"""What every test shares: one thread a process, no network, and data that lies beside the repository."""

import os
import pickle
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Before anything imports NumPy or torch: tests run in parallel processes, and results must not depend on the machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "agg")
# Whether this machine wants it or not: else pytest would rewrite all tests in each of its processes, and every process
# that a test starts would compile wavetune anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Whoever started pytest may have had it ignore interrupts, as a shell does in the background; tests send some.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder shared/ beside the repository: data sets and reference instances too large to keep in it."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"the reference data is not on this machine (no folder {folder})")
    return folder


@pytest.fixture(scope="session", autouse=True)
def planned_once() -> Iterator[None]:
    """What a run plans, and what its plan is compared with, is planned once: hundreds of runs plan the same."""
    from wavetune.allocation import baselines, describe
    from wavetune.federation import planning

    with pytest.MonkeyPatch.context() as patch:
        for module, name in (
            (planning, "plan_with_energy"),
            (planning, "plan_fixed"),
            (baselines, "plan_baselines"),
            (describe, "sensitivities"),
        ):
            patch.setattr(module, name, _remembered(getattr(module, name)))
        yield


def _remembered(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of its arguments alone, which is asked once for each."""
    known = dict[bytes, Any]()

    def call(*arguments: Any, **named: Any) -> Any:
        content = pickle.dumps((arguments, named))
        if content not in known:
            known[content] = function(*arguments, **named)
        return known[content]

    return call


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
