"""The command line as its user meets it: arguments in; exit code, standard output and standard error out."""

from __future__ import annotations

import contextlib
import io
import signal
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from unittest import mock

from helpers.runs import SMALL
from wavetune.cli import main


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str


def wavetune(*arguments: object) -> Answer:
    """Run a command in this process. Whatever escapes the command line's own handling fails the test."""
    out, err, handler = io.StringIO(), io.StringIO(), signal.getsignal(signal.SIGTERM)
    code: object = 0
    with (
        mock.patch.object(sys, "argv", ["wavetune", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code
        finally:
            signal.signal(signal.SIGTERM, handler)
    return Answer(int(code or 0), out.getvalue(), err.getvalue())


def settings(*assignments: str) -> list[str]:
    """Options that cut a recipe down to a second with two samples, and further ones."""
    return list(flatten(("--set", assignment) for assignment in (*SMALL, "run.samples=2", *assignments)))


def flatten(pairs: Iterable[Iterable[str]]) -> Iterable[str]:
    return (word for pair in pairs for word in pair)


def assert_refused(answer: Answer, *words: str) -> None:
    """One sentence at the end of standard error, after what was said before; exit code 2, no traceback."""
    assert answer.code == 2, answer
    lines = answer.err.strip().splitlines()
    assert [line.startswith("wavetune: ") for line in lines] == [False] * (len(lines) - 1) + [True], answer.err
    assert "Traceback" not in answer.err + answer.out
    for word in words:
        assert word in answer.err, f"{word!r} is not in {answer.err!r}"
