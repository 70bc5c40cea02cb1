"""What goes wrong in other people's parts, as one sentence that names the part, its method, the file and the line."""

from collections.abc import Callable, Mapping
from functools import wraps
from traceback import walk_tb
from types import FunctionType
from typing import Any, cast

from wavetune.errors import PartError, WavetuneError, one_line

Check = Callable[..., str]
"""Told the part, what its method returned and what it was given: what it should have returned, empty if it has."""
Checks = Mapping[str, Check]
# What callers know of: a decomposition that does not converge, and the end of what PyTorch's checkpoints compute again.
_AWAITED = ("LinAlgError", "_LinAlgError", "_StopRecomputationError")


def guard(part: type[Any], kind: str) -> None:
    """Make errors of a class's methods sentences, and what they return that their seam cannot take.

    These are the methods that its seam has, those that it lacks too. The seam's `checks` are by their names. Of classes
    of wavetune itself nothing is changed. Raises PartError where a field hides a method of the seam.
    """
    if _top(part.__module__) == "wavetune":
        return
    seams = [base for base in part.__mro__ if _top(base.__module__) == "wavetune"]
    checks: dict[str, Check] = {}
    for base in reversed(seams):
        checks |= vars(base).get("checks", {})
    for name in dict.fromkeys((*(name for base in seams for name in vars(base)), "__post_init__")):
        if name in vars(part).get("__annotations__", {}) and any(callable(vars(base).get(name)) for base in seams):
            raise PartError(f"{kind} has a field {name}, which is a method of its seam; give it another name")
        found = getattr(part, name, None)
        method = found.fget if isinstance(found, property) else found
        if not isinstance(method, FunctionType) or (name.startswith("__") and name != "__post_init__"):
            continue
        if name in vars(part) or "NotImplementedError" in method.__code__.co_names:  # its own, or what it lacks
            guarded = _guarded(method, kind, name, checks.get(name))
            setattr(part, name, property(guarded) if isinstance(found, property) else guarded)


def _guarded(method: Callable[..., Any], kind: str, name: str, check: Check | None) -> Callable[..., Any]:
    @wraps(method)
    def guarded(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            found = method(self, *args, **kwargs)
        except (WavetuneError, MemoryError):
            raise
        except Exception as error:  # whatever their code raises
            if type(error).__name__ in _AWAITED:
                raise
            if isinstance(error, NotImplementedError) and _top(method.__module__) == "wavetune":
                raise PartError(f"{kind} has no {name}, which its seam asks of it") from error
            raise PartError(f"{kind} failed in {name}{line_of(error, method.__module__)}: {told(error)}") from error
        if check is not None and (wanted := check(self, found, *args, **kwargs)):
            code = method.__code__ if isinstance(method, FunctionType) else None
            where = "" if code is None else f" (line {code.co_firstlineno} of {code.co_filename})"
            raise PartError(f"{name} of {kind}{where} is to return {wanted}; it returned {shown(found)}")
        return found

    return guarded


def returning(kind: type, what: str) -> Check:
    """A check that a method returns something of a type, called so."""

    def check(_part: object, found: object, *_: object, **__: object) -> str:
        return "" if isinstance(found, kind) else what

    return check


def pair_of(found: Any) -> tuple[Any, Any] | None:
    """What was returned, if it is a tuple of two."""
    return found if isinstance(found, tuple) and len(cast("tuple[Any, ...]", found)) == 2 else None


def line_of(error: BaseException, module: str) -> str:
    """Where an error came to pass in a module's package, in words; empty if nowhere there."""
    frames = [(frame, line) for frame, line in walk_tb(error.__traceback__)]
    own = [(f, line) for f, line in frames if _top(f.f_globals.get("__name__", "")) == _top(module)]
    return f" (line {own[-1][1]} of {own[-1][0].f_code.co_filename})" if own else ""


def told(error: BaseException) -> str:
    """An error in a line, with its type."""
    return f"{type(error).__name__}: {one_line(error)}".rstrip(": ")


def shown(value: Any) -> str:
    """A value in few words: a tensor or an array by its shape, a tuple or mapping by what is in it.

    >>> shown((1.5, None, {"a": [1, 2]}))
    '(float, NoneType, {a: list})'
    """
    if type(value) is tuple:
        return f"({', '.join(shown(one) for one in value[:4])})"
    if isinstance(value, dict):
        items = list(cast("dict[Any, Any]", value).items())[:3]
        return f"{{{', '.join(f'{key}: {shown(one)}' for key, one in items)}}}"
    shape = getattr(value, "shape", None)
    return type(value).__name__ + ("" if shape is None else f" {list(shape)}")


def _top(module: str) -> str:
    return module.partition(".")[0]
