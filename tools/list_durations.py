"""Writes tests/durations.md, the slowest tests and files, from what `make test` left in build/durations.txt."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
TESTS, FILES = 40, 20
_PAGE = """\
# How long the tests take

`make durations` writes this page from the last `make test`, of which it says what there was: {count} tests in {files}
files, {total:.0f} s one after the other with what they set up, on {cores} cores. In {workers} processes they take less.

| seconds | the {tests} slowest tests |
| ---: | --- |
{slowest}

| seconds | tests | the {most} slowest files |
| ---: | ---: | --- |
{by_file}
"""


def page_of(durations: str, cores: int, workers: int = 2) -> str:
    """The page of what `tests/conftest.py` wrote, a line `SECONDS s  NAME` for each test."""
    seconds = {name: float(took) for took, name in re.findall(r"^ *([\d.]+) s  (.+)$", durations, re.MULTILINE)}
    by_file, number = Counter[str](), Counter(map(_file_of, seconds))
    for name, took in seconds.items():
        by_file[_file_of(name)] += took
    slowest = [f"| {took:.1f} | `{name}` |" for name, took in Counter(seconds).most_common(TESTS)]
    files = [f"| {took:.1f} | {number[name]} | `{name}` |" for name, took in by_file.most_common(FILES)]
    return _PAGE.format(
        count=f"{len(seconds):,}",
        files=len(by_file),
        total=sum(seconds.values()),
        cores=cores,
        workers=workers,
        tests=len(slowest),
        slowest="\n".join(slowest),
        most=len(files),
        by_file="\n".join(files),
    )


def _file_of(name: str) -> str:
    return name.partition("::")[0]


if __name__ == "__main__":
    found = (HERE / "build" / "durations.txt").read_text(encoding="utf-8")
    (HERE / "tests" / "durations.md").write_text(page_of(found, os.cpu_count() or 1), encoding="utf-8")
