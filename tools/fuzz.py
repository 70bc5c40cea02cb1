"""Try the command line in this process and judge how it ends; what the files `fuzz_*` share."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest import mock

from wavetune.cli import main
from wavetune.console import steers

LONGEST_S = 60  # of CPU
ALLOWED = (0, 2, 3)
_OWN_FAULT = "a fault of wavetune"
STOPPED = 130
HOSTILE = (
    "0", "-1", "1", "2", "0.5", "-0.0", "7", "40", "1e6", "1e-6", "1e20", "1e30", "1e308", "-1e308", "1e-308",
    "5e-324", "1e999", "NaN", "Infinity", "-Infinity", "null", "true", "[]", "{}", "[[]]", "[null]", '""', '"x"',
    '"1"', "[1,2,3]", "[1e308]", "9223372036854775808", "100000000000000000000", "2147483648", "1_000", "0x10",
    '{"kind":"x"}', '{"kind":null}', '{"kind":[]}', '{"kind":{}}', '{"kind":[[]]}', '{"a":1}', '{"a":1,"a":2}',
    "../../etc", "https://x/y", '"\\ud800"', '"\\u0000"', '"\\u001b[31m"', "\x1b[31mred", "' OR 1=1", "١", "9" * 400,
    "9" * 5000, "[" * 70 + "]" * 70, "[" * 3000, "[" * 5000 + "]" * 5000, '{"a":' * 5000 + "1" + "}" * 5000,
    '"' + "a" * 100_000 + '"',
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """A command that did not end as it should."""

    arguments: list[str]
    what: str
    detail: str


class _TooLongError(BaseException):
    pass


def attempt(arguments: Sequence[str], start: Callable[[], object] = main) -> tuple[str, Finding | None]:
    """How a command ended, and what was wrong with that: a traceback, a warning, an escape, a long or empty refusal."""
    out, err, problem, detail = io.StringIO(), io.StringIO(), "", ""
    code: object = 0
    handlers = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGVTALRM)}
    with (
        mock.patch.object(sys, "argv", ["wavetune", *arguments]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(record=True) as warned,
    ):
        warnings.simplefilter("always")
        signal.signal(signal.SIGVTALRM, _too_long)
        signal.setitimer(signal.ITIMER_VIRTUAL, LONGEST_S)
        try:
            start()
        except SystemExit as end:
            code = 0 if end.code is None else end.code
        except BaseException as error:
            code = type(error).__name__
            problem, detail = "escaped", traceback.format_exc()[-1500:]
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            for number, handler in handlers.items():
                signal.signal(number, handler)
    if code == STOPPED:  # by a signal from outside, which is no finding
        raise KeyboardInterrupt
    refused = err.getvalue().strip()
    if not problem and code not in ALLOWED:
        problem, detail = f"code {code}", refused[-500:]
    elif not problem and steers(out.getvalue() + refused):
        problem, detail = "escape sequence", repr((out.getvalue() + refused)[-500:])
    elif not problem and code == 2 and (not _is_sentence(refused) or _OWN_FAULT in refused):
        problem, detail = "no sentence", refused[-1000:]
    elif not problem and (foreign := [str(w.message) for w in warned if _counts(w)]):
        problem, detail = "warning", foreign[0][:500]
    return str(code), Finding([a[:200] for a in arguments], problem, detail) if problem else None


def _is_sentence(refused: str) -> bool:
    """Whether what a refused command wrote to standard error, progress first, ends in one short sentence."""
    last = refused.splitlines()[-1] if refused else ""
    return last.startswith("wavetune: ") and len(last) < 3000


def _counts(warning: warnings.WarningMessage) -> bool:
    return not issubclass(warning.category, (ResourceWarning, DeprecationWarning))


def _too_long(*_: object) -> None:
    raise _TooLongError


def command(what: str, commands: Callable[[int, int], Iterable[list[str]]], start: Callable[[], object] = main) -> None:
    """Parse `--seed` and `--count`, try the commands, print what was found; exits with 1 if there is anything."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--report", type=Path, help="Also write what was found here, as JSON.")
    parser.add_argument("--only", help="Try the commands of this name alone.")
    chosen = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    counts: Counter[str] = Counter()
    found: list[Finding] = []
    slowest: tuple[float, list[str]] = (0.0, [])
    for number, arguments in enumerate(commands(chosen.seed, chosen.count), start=1):
        if chosen.only not in (None, arguments[0]):
            continue
        started = time.process_time()
        code, finding = attempt(arguments, start)
        slowest = max(slowest, (time.process_time() - started, [a[:80] for a in arguments]))
        counts[f"{arguments[0]} {code}"] += 1
        if finding is not None:
            found.append(finding)
            print(f"{number}: {finding.what}: {finding.arguments}\n{finding.detail}\n", flush=True)
    print(f"{counts.total()} tried: {dict(sorted(counts.items()))}; slowest {slowest[0]:.1f} s: {slowest[1]}")
    print(f"{len(found)} ended as they should not")
    if chosen.report is not None:
        chosen.report.write_text(json.dumps([asdict(f) for f in found], indent=1) + "\n", encoding="utf-8")
    sys.exit(1 if found else 0)
