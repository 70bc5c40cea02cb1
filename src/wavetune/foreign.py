"""Other people's code, imported by the name that a recipe gives it: `package.module:name` or `path/to/file.py:name`."""

import importlib
import importlib.util
import os
import sys
import threading
from collections.abc import Collection
from operator import attrgetter
from types import ModuleType
from typing import Any

from wavetune.errors import ConfigError
from wavetune.given import at_home, function_of, is_given
from wavetune.guarded import line_of, told

LONGEST_IMPORT_S = 120.0


def allows(names: Collection[str], place: str) -> bool:
    """Whether a module, file or folder is one of these, or a module of one of these packages.

    >>> [allows(("theirs", "a.b"), place) for place in ("theirs.mixing", "a.b", "a", "theirsnot")]
    [True, True, False, False]
    """
    parts = place.split(".")
    packages = {".".join(parts[: i + 1]) for i in range(len(parts))}
    return not packages.isdisjoint(names) or _real(place) in map(_real, names)


def _real(name: str) -> str:
    return os.path.realpath(at_home(name))


def imported(name: str, what: str, kind: str = "name") -> Any:
    """What stands under a name.

    Args:
        name: module or file, a colon, and the name in it.
        what: who asks, for what is refused, as in "cannot import WHAT NAME".
        kind: what the module should have, for what is refused.

    Raises: ConfigError, also where the code fails, would end the process or does not come to an end.
    """
    if is_given(name):
        return function_of(name)
    place, colon, within = name.rpartition(":")
    if not colon or not place or not within:
        raise ConfigError(f"{what} is named module:{kind} or file.py:{kind}, not {name!r}")
    if place.partition(".")[0] in sys.stdlib_module_names:
        raise ConfigError(f"{what} {name!r} is of Python's own library, which has none; name yours")
    try:
        return attrgetter(within)(_module(place, f"{what} {name!r}"))
    except AttributeError:
        raise ConfigError(f"{place} has no {kind} {within!r} for {what} {name!r}") from None


def _module(place: str, what: str) -> ModuleType:
    done: list[ModuleType | BaseException] = []

    def load() -> None:
        try:
            done.append(_load(place))
        except BaseException as error:  # whatever their code raises, SystemExit too
            done.append(error)

    thread = threading.Thread(target=load, daemon=True)
    thread.start()
    thread.join(LONGEST_IMPORT_S)
    if not done:
        raise ConfigError(f"the import of {what} has not ended after {LONGEST_IMPORT_S:g} s")
    if isinstance(done[0], BaseException):
        raise ConfigError(
            f"cannot import {what}{line_of(done[0], place)}: {told(done[0])}{_way_to(place, done[0])}"
        ) from done[0]
    return done[0]


def _way_to(place: str, error: BaseException) -> str:
    if not isinstance(error, ModuleNotFoundError) or error.name != place.partition(".")[0]:
        return ""
    return "; install its package, or put the folder that holds it on PYTHONPATH"


def _load(place: str) -> ModuleType:
    if not place.endswith(".py"):
        return importlib.import_module(place)
    spec = importlib.util.spec_from_file_location("wavetune_foreign", at_home(place))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
