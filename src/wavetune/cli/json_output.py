"""Results as JSON on standard output alone: what is meant for people goes to standard error while it is asked for."""

import json
import sys
from collections.abc import Generator
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from typing import Any, TextIO

_out: ContextVar[TextIO | None] = ContextVar("standard output for results", default=None)


@contextmanager
def only_json(wanted: bool) -> Generator[None]:
    """Where wanted, what is printed in this block goes to standard error, and results to standard output."""
    if not wanted:
        yield
        return
    token = _out.set(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _out.reset(token)


def wants_json() -> bool:
    """Whether results are asked for as JSON."""
    return _out.get() is not None


def result(value: Any) -> None:
    """A result of the command, written where JSON is asked for; null stands for what is no finite number."""
    if (out := _out.get()) is not None:
        from wavetune.records.fields import finite_json

        print(json.dumps(json.loads(finite_json(value)), indent=1), file=out, flush=True)
