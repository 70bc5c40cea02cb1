"""Callbacks as they are given: objects, functions, and names of trackers or of one's own code."""

from collections.abc import Callable, Sequence
from typing import Any

from wavetune.callbacks import Callback, OfFunction
from wavetune.errors import ConfigError, nearest
from wavetune.foreign import imported

Given = Callback | Callable[[Any], object] | str


def callbacks_of(given: Sequence[Given]) -> list[Callback]:
    """The callbacks; a name is that of a tracker, or `module:function` of a class or a function of a record.

    Raises: ConfigError for an unknown name, a tracker whose library is not installed, and what is no callback.
    """
    if isinstance(given, str):
        given = [name.strip() for name in given.split(",") if name.strip()]
    return [_callback(one) for one in given]


def _callback(one: Given) -> Callback:
    if isinstance(one, str):
        one = _named(one)
    if isinstance(one, type):
        one = one()
    if isinstance(one, Callback):
        return one
    if callable(one):
        return OfFunction(one)
    raise ConfigError(
        f"a callback is a wavetune.Callback, a function of a record or a name, not {type(one).__name__}; wrap it in one"
    )


def _named(name: str) -> Any:
    from wavetune.tracking import TRACKERS, tracker

    if name in TRACKERS:
        return tracker(name)
    if ":" not in name:
        raise ConfigError(f"no tracker is called {name!r}; {nearest(name, TRACKERS)} (or your own as module:function)")
    return imported(name, "the callback", "function")
