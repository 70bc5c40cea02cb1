"""Which file of transformers defines which name, kept in the cache: to read it from 2,000 files takes half a second."""

import json
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from wavetune.models.cache import cached, remembered, state_of

Names = dict[frozenset[str], dict[str, set[str]]]
"""By what has to be installed: modules, and the names that each defines."""


def kept_names(define: Callable[..., Names], path: str | Path, prefix: str | None = None) -> Names:
    """What `define(path, prefix)` gives; of the folder of all models from the cache, if its files are as then.

    Other folders are read, and so is this one where the cache cannot be written or understood. `prefix` and a dot come
    before each module.
    """
    folder = Path(path).parent if Path(path).is_file() else Path(path)
    if folder.name != "models":
        return define(path, prefix)
    before = "" if prefix is None else f"{prefix}."
    return {needed: {before + name: found for name, found in of.items()} for needed, of in _of(define, folder).items()}


@cache  # transformers asks twice
def _of(define: Callable[..., Names], folder: Path) -> Names:
    place = cached(f"model-names/{state_of(_sources(folder))}.json")
    try:
        kept = json.loads(place.read_bytes())  # by nobody else: to look for flaws would take most of the time
        return {frozenset(needed): {name: set(found) for name, found in of.items()} for needed, of in kept}
    except (OSError, AttributeError, TypeError, ValueError):
        names = define(str(folder))
        remembered(place, [[sorted(needed), of] for needed, of in names.items()])
        return names


def _sources(folder: Path) -> Iterator[str]:
    """All files of Python in a folder, in half the time that a path for each would take."""
    for where, _, names in os.walk(folder):
        yield from (f"{where}/{name}" for name in names if name.endswith(".py"))
