"""Where the machine code of kernels is kept between processes: a folder for each state of all their sources, which all
installations and checkouts with that state share.

Numba by itself keeps code until the file of its function changes, and would go on with what that calls in other files
as it was before. And it keeps code for the folder of its sources alone, though these may be the same in another.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from llvmlite.binding import parse_bitcode  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]
from numba import __version__, config, njit  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]
from numba.core import caching, environment  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]
from numba.core.codegen import JITCodeLibrary  # pyright: ignore[reportMissingTypeStubs]
from numba.core.compiler_lock import (  # pyright: ignore[reportMissingTypeStubs]
    global_compiler_lock,  # pyright: ignore[reportUnknownVariableType]
)
from numba.core.runtime.nrt import rtsys  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

try:
    import fcntl
except ImportError:  # Windows, where each process compiles for itself
    fcntl = None

environments: Any = environment
_LOCATOR: Any = cast(Any, caching)._CacheLocator
_BY_CONTENT = hasattr(caching, "_hash_source_file")  # else Numba knows a file by its time, another in each checkout
_NAMED = "kernels-"
_COMPILED = re.compile(rb"^@(kernel|part|inlined)\b|njit", re.MULTILINE)  # in sources of what is compiled
_KEPT_S = 30 * 86_400.0  # older states of the sources are still run elsewhere


@contextmanager
def kept_with_sources() -> Generator[None]:
    """While in this block, what is compiled is kept in the folder of the package's sources as they are."""
    settings = cast(Any, config)
    usual, named = settings.CACHE_DIR, cast(Any, vars(_LOCATOR)["get_suitable_cache_subpath"])
    settings.CACHE_DIR = str(_folder(usual))
    if _BY_CONTENT:
        _LOCATOR.get_suitable_cache_subpath = staticmethod(_named_by_content)
    try:
        yield
    finally:
        settings.CACHE_DIR, _LOCATOR.get_suitable_cache_subpath = usual, named


@cache
def _named_by_content(source: str) -> str:
    """The folder for what is compiled from a file, whatever folder that lies in."""
    path = Path(source)
    return f"{path.stem}_{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"


def compiled(function: Callable[..., Any], **options: Any) -> Any:
    """Machine code of a function, made at its first call and kept. Where several processes call it first, one makes it
    while the others wait, and then read it.
    """
    with kept_with_sources():
        kernel: Any = cast(Any, njit)(cache=True, nogil=True, error_model="numpy", **options)(function)
        folder = Path(cast(Any, config).CACHE_DIR)
    own = getattr(kernel, "compile", None)
    if own is None:  # Numba is told to compile nothing
        return kernel

    def compile_alone(signature: Any) -> Any:
        # Numba's own lock first: what a process holds then belongs to kernels of which each calls the next.
        with cast(Any, global_compiler_lock), _alone(folder / f"{function.__module__}.{function.__qualname__}.lock"):
            return own(signature)

    kernel.compile, kernel._cache.load_overload = compile_alone, _without_declarations(kernel._cache.load_overload)
    return kernel


def _without_declarations(load: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """What loads kept code, without first declaring to the compiler all that it might be asked to compile, without
    reading what another kernel would be compiled with, and without importing the modules from which functions were
    compiled into it: only Python's own objects would look there.
    """

    def load_alone(signature: Any, context: Any) -> Any:
        cast(Any, rtsys).initialize(context)
        context.refresh = lambda: None
        usual, environments.importlib = environments.importlib, _NamesAlone
        codegen = context.codegen()
        codegen._library_class = _LinkedLater
        try:
            return load(signature, context)
        finally:
            environments.importlib = usual
            del context.refresh, codegen._library_class

    return load_alone


class _NamesAlone:
    """In the place of `importlib`: of a module that nobody has imported there is its name."""

    @staticmethod
    def import_module(name: str) -> Any:
        """The module, or what has but its name."""
        return sys.modules.get(name) or SimpleNamespace(__name__=name)


class _LinkedLater(cast(Any, JITCodeLibrary)):
    """Kept machine code that can be called; what other kernels would be compiled with is read when one is."""

    _shared_module: Any

    @classmethod
    def _unserialize(cls, codegen: Any, state: tuple[str, str, tuple[bytes, bytes]]) -> Any:
        name, _, (code, shared) = state  # all that is kept is kept as an object
        library = codegen.create_library(name)
        library._code, library._shared = code, shared
        library.enable_object_caching()
        library._set_compiled_object(code)
        library._finalize_final_module()
        return library

    def get_pointer_to_function(self, name: str) -> int:
        """The address of what the code calls by a name, and 0 of what it lacks: LLVM would end the process."""
        return self.codegen._engine.get_function_address(name) if name.encode() + b"\0" in self._code else 0

    def _get_module_for_linking(self) -> Any:
        self._shared_module = self._shared_module or parse_bitcode(self._shared)
        return self._shared_module


@contextmanager
def _alone(path: Path) -> Generator[None]:
    """While in this block, other processes wait before theirs, where files can be written and locked."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = path.open("ab")
    except OSError:
        yield
        return
    with file:
        if fcntl is not None:
            with suppress(OSError):
                fcntl.lockf(file, fcntl.LOCK_EX)
        yield


@cache
def _folder(usual: str) -> Path:
    package = Path(__file__).parent
    beside = Path(usual) if usual else _common_cache() or package / "__pycache__"
    folder = beside / (_NAMED + state_of(package))
    with suppress(OSError):
        os.utime(folder)  # what is used is not old
    forget(beside, time.time() - _KEPT_S)
    return folder / f"numba-{__version__}"  # which forgets what another has compiled


def _common_cache() -> Path | None:
    """wavetune's cache, if it can be written to."""
    try:
        cache = Path(os.environ.get("WAVETUNE_CACHE") or "~/.cache/wavetune").expanduser()
        cache.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # nobody's home, or one of others
        return None
    return cache if os.access(cache, os.W_OK) else None


def state_of(package: Path) -> str:
    """A name for what the sources with kernels in a package and its folders hold."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        content = path.read_bytes()
        if _COMPILED.search(content):
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
