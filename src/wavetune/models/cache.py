"""What wavetune writes once for all runs: models and data sets in `$WAVETUNE_CACHE`, else `~/.cache/wavetune`."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError

from wavetune.errors import JsonError, ModelError, WavetuneError
from wavetune.given import at_home
from wavetune.json_reader import read_json

T = TypeVar("T")


def cached(part: str, cache_dir: str | Path | None = None) -> Path:
    """Where a part of the cache lies (`models/v1/tiny`), whether it is there or not.

    Raises: ModelError where there is no home directory.
    """
    folder = at_home(cache_dir or os.environ.get("WAVETUNE_CACHE") or "~/.cache/wavetune")
    if folder.parts[0].startswith("~"):
        raise ModelError(f"there is no home directory for {folder}: set WAVETUNE_CACHE to a folder")
    return folder / part


def written_once(
    folder: Path, write: Callable[[Path], None], size_bytes: int, error: type[WavetuneError] = ModelError
) -> Path:
    """The folder, which `write` fills if it is missing. It is whole whenever it exists, whoever else writes or dies.

    Args:
        folder: what is wanted.
        write: called with an empty folder to fill, at most once over all processes.
        size_bytes: room that `write` needs at its largest.
        error: what is raised if the disk refuses.
    """
    if folder.is_dir():
        return folder
    from filelock import FileLock

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if not folder.is_dir():  # another process may have written it while this one waited
                _write_whole(folder, write, size_bytes)
    except (OSError, SafetensorError) as reason:
        raise error(
            f"cannot write {folder} into the cache ({reason}): free some space or set WAVETUNE_CACHE to a folder that"
            " can be written"
        ) from reason
    return folder


def make_room(newest: Path, limit_bytes: int) -> None:
    """Of the folders beside one drop what was used longest ago until the rest fits; what is mapped stays mapped."""
    kept = [folder for folder in newest.parent.iterdir() if folder.is_dir() and not folder.name.startswith(".")]
    used = 0
    for folder in sorted(kept, key=lambda f: (f == newest, f.stat().st_mtime), reverse=True):
        used += sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        if used > limit_bytes and folder != newest:
            shutil.rmtree(folder, ignore_errors=True)


def recalled(file: Path) -> Any:
    """The JSON value of a file of the cache; None if it is missing or damaged."""
    try:
        return read_json(file)
    except JsonError:
        return None


def remembered(file: Path, value: Any) -> None:
    """Keep a JSON value, sets as lists, in a file of the cache; a cache that cannot be written is done without."""
    part = file.with_name(f".{file.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(value, default=sorted), encoding="utf-8")
        part.replace(file)


def place_of(part: str, key: Any) -> Path:
    """The file of the cache for what depends on all of a key, a JSON value, alone."""
    return cached(f"{part}/{sha256(json.dumps(key).encode()).hexdigest()}.json")


def kept(place: Path, make: Callable[[], T], written: Callable[[T], Any], read: Callable[[Any], T]) -> T:
    """What `make` makes, or made before in whichever process: a file keeps the JSON value that it is `written` as.

    `read` raises LookupError, TypeError or ValueError for any other value; None stands for a file that is missing.
    """
    try:
        return read(recalled(place))
    except (LookupError, TypeError, ValueError):
        found = make()
    remembered(place, written(found))
    return found


def state_of(files: Iterable[Path | str]) -> str:
    """A name for the paths, sizes and times of files, which changes when one of them does."""
    digest = sha256()
    for file in sorted(map(str, files)):
        stat = os.stat(file)
        digest.update(f"{file} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


@cache
def state_of_code() -> str:
    """Changes with our sources and with the libraries that compute."""
    from importlib.metadata import version  # which no recipe needs to be shown

    sources = Path(__file__).parents[1].rglob("*.py")
    return f"{state_of(sources)} {version('torch')} {version('transformers')}"


def state_of_folder(folder: Path) -> str:
    """Changes with the files of a folder, such as a model's."""
    return state_of(filter(Path.is_file, folder.rglob("*")))


def _write_whole(folder: Path, write: Callable[[Path], None], size_bytes: int) -> None:
    """Write under another name and rename."""
    free_bytes = shutil.disk_usage(folder.parent).free
    if free_bytes < size_bytes:
        raise OSError(f"{size_bytes / 1e6:.0f} MB needed, {free_bytes / 1e6:.0f} MB free")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a killed process: the lock says that nobody writes it now
    partial.mkdir()
    try:
        write(partial)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
