"""How kernels are compiled: numba, without the GIL, cached on disk. Import modules of kernels only where needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

Function = TypeVar("Function", bound=Callable[..., object])


def kernel(function: Function) -> Function:
    """Machine code of a numeric function that Python calls; made at its first call and kept in the cache."""
    return cast(Function, njit(cache=True, nogil=True, error_model="numpy")(function))


def part(function: Function) -> Function:
    """Machine code of a function that only kernels call: quicker to compile, as nothing wraps it for Python."""
    options: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return cast(Function, njit(cache=True, nogil=True, error_model="numpy", **options)(function))
