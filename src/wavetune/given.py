"""Data, models and functions that were given as Python objects, and the names by which a recipe holds them.

Data and models are written to a folder that lasts as long as this process, so that all that reads files reads them, in
the processes that it starts, too; functions stay in its memory. A name tells the kind and a digest of the content.
"""

import atexit
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wavetune.errors import ConfigError

PREFIX = "object:"
VARIABLE = "WAVETUNE_OBJECTS"
"""Environment variable by which processes find what was given to the one that started them."""

_functions: dict[str, Callable[..., Any]] = {}


def at_home(path: str | Path) -> Path:
    """The path with the home directory that a leading `~` or `~user` stands for, or as it is where there is none."""
    return Path(os.path.expanduser(path))


def is_given(name: str) -> bool:
    """Whether this is the name of something that was given as an object."""
    return name.startswith(PREFIX)


def folder_of(name: str) -> Path:
    """The folder that data or a model was written to, of any other name the path it is. Raises ConfigError."""
    if not is_given(name):
        return at_home(name)
    own = name.removeprefix(PREFIX)
    folder = Path(os.environ.get(VARIABLE, "")) / own
    if VARIABLE not in os.environ or not re.fullmatch(r"\w[\w.-]*", own) or not folder.is_dir():
        raise missing(name)
    return folder


def function_of(name: str) -> Callable[..., Any]:
    """The function that was given. Raises ConfigError where it was given to another process."""
    if name not in _functions:
        raise missing(name)
    return _functions[name]


def missing(name: str) -> ConfigError:
    """What is said where an object is not at hand."""
    return ConfigError(
        f"{name} was given as a Python object to another process: make the recipe with the same object again and go on "
        "from Python with wavetune.run(recipe, out=FOLDER, resume=True)"
    )


def keep_folder(kind: str, write: Callable[[Path], object]) -> str:
    """The name of what is written into a folder, which is the same for the same content."""
    part = Path(tempfile.mkdtemp(prefix="new-", dir=_root()))
    write(part)
    digest = hashlib.sha256()
    for file in sorted(path for path in part.rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(part)} {file.stat().st_size}\n".encode())
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    name = f"{kind}-{digest.hexdigest()[:16]}"
    folder = part.with_name(name)
    if folder.exists():
        shutil.rmtree(part)
    else:
        part.rename(folder)
    return PREFIX + name


def keep_function(function: Callable[..., Any], digest: str) -> str:
    """The name of a function whose code has this digest."""
    own = getattr(function, "__name__", type(function).__name__)
    name = f"{PREFIX}{own.strip('<>')}-{digest[:16]}"
    _functions[name] = function
    return name


def _root() -> Path:
    found = os.environ.get(VARIABLE)
    if found is None or not Path(found).is_dir():
        found = os.environ[VARIABLE] = tempfile.mkdtemp(prefix="wavetune-objects-")
        atexit.register(_remove, found, os.getpid())
    return Path(found)


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # and not a process that was forked from it
        shutil.rmtree(folder, ignore_errors=True)
