"""Where the machine code of kernels is kept between processes: a folder for each state of all their sources.

Numba by itself keeps code until the file of its function changes, and would go on with what that calls in other files
as it was before.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, cast

from numba import config  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

_NAMED = "kernels-"
_KEPT_S = 30 * 86_400.0  # older states of the sources are still run elsewhere


@contextmanager
def kept_with_sources() -> Generator[None]:
    """While in this block, what is compiled is kept in the folder of the package's sources as they are."""
    settings = cast(Any, config)
    usual: str = settings.CACHE_DIR
    settings.CACHE_DIR = str(_folder(usual))
    try:
        yield
    finally:
        settings.CACHE_DIR = usual


@cache
def _folder(usual: str) -> Path:
    package = Path(__file__).parent
    own = package / "__pycache__"
    if usual:
        beside = Path(usual)
    else:
        beside = own if os.access(own if own.exists() else package, os.W_OK) else Path("~/.cache/wavetune").expanduser()
    forget(beside, time.time() - _KEPT_S)
    return beside / (_NAMED + state_of(package))


def state_of(package: Path) -> str:
    """A name for what the sources with kernels in a package and its folders hold."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        content = path.read_bytes()
        if b"water_filling" in content:  # from which all kernels come
            digest.update(f"{path.relative_to(package)} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


def forget(folder: Path, before_s: float) -> None:
    """Remove the code of other states that were written before a time."""
    for old in folder.glob(_NAMED + "*"):
        try:
            if old.stat().st_mtime < before_s:
                shutil.rmtree(old, ignore_errors=True)
        except OSError:  # another process forgets it
            continue
