"""Where a run is, from the files of its folder alone: not begun, running, stopped, finished or damaged."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wavetune.errors import ConfigError, JsonError
from wavetune.federation.folder_lock import is_held
from wavetune.federation.run_folder import ROUNDS
from wavetune.json_reader import LONGEST_RECORDS, parse, read_json, read_lines
from wavetune.records.reading import FILES

NOT_BEGUN, RUNNING, STOPPED, FINISHED, DAMAGED = "not begun", "running", "stopped", "finished", "damaged"
_DEEPEST = 4  # levels of folders that are looked into


@dataclass(frozen=True)
class RunState:
    """A run folder in one line; what is not known is empty or None, and `why` says what is damaged."""

    folder: Path
    name: str
    state: str
    recipe: str = ""
    model: str = ""
    rounds_done: int = 0
    rounds: int | None = None
    size_bytes: int = 0
    age_s: float = 0.0  # since something in it changed
    why: str = ""


def run_states(folder: Path) -> list[RunState]:
    """All runs in a folder and below, or the one that it is, latest first. Raises ConfigError if there is no folder."""
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder; name one that runs were written into")
    return sorted((state_of(found, folder) for found in _runs(folder, _DEEPEST)), key=lambda one: one.age_s)


def _runs(folder: Path, levels: int) -> Iterator[Path]:
    if is_run(folder):
        yield folder
    elif levels:
        try:
            inner = sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
        except OSError:
            return
        for path in inner:
            yield from _runs(path, levels - 1)


def is_run(folder: Path) -> bool:
    """Whether a folder holds records of a run."""
    return any((folder / name).exists() for name in (*FILES[:3], "state.json"))


def state_of(folder: Path, above: Path | None = None) -> RunState:
    """Where the run in a folder is; its name is the path from `above`."""
    name = folder.name if above in (None, folder) else str(folder.relative_to(above))
    size_bytes, changed_s = _size(folder)
    held, age_s = is_held(folder), max(0.0, time.time() - changed_s) if changed_s else 0.0
    if not is_run(folder):
        return RunState(folder, name, RUNNING if held else NOT_BEGUN, size_bytes=size_bytes, age_s=age_s)
    try:
        recipe = _object(folder / "recipe.json")
        status = _object(folder / "summary.json").get("status") if (folder / "summary.json").exists() else None
        done = _rounds_done(folder / ROUNDS)
    except JsonError as error:
        return RunState(folder, name, DAMAGED, size_bytes=size_bytes, age_s=age_s, why=str(error))
    run, world = recipe.get("run"), recipe.get("world")
    rounds = run.get("rounds") if isinstance(run, dict) else None
    rounds = rounds if isinstance(rounds, int) else None
    model = str(world.get("model") or "") if isinstance(world, dict) else ""
    over = status == FINISHED and (rounds is None or done >= rounds)
    state = RUNNING if held else FINISHED if over else STOPPED
    return RunState(folder, name, state, str(recipe.get("name") or ""), model, done, rounds, size_bytes, age_s)


def _object(path: Path) -> dict[str, Any]:
    found = read_json(path)
    if not isinstance(found, dict):
        raise JsonError("not an object", path)
    return found


def _rounds_done(path: Path) -> int:
    """Whole lines of the records, of which the last is looked at."""
    if not path.exists():
        return 0
    last, count = "", 0
    try:
        for line in read_lines(path, LONGEST_RECORDS):
            if line.endswith("\n"):
                last, count = line, count + 1
    except JsonError as error:
        raise JsonError(f"cannot be read ({error.reason})", path) from None
    try:
        if last:
            parse(last)
    except JsonError as error:
        raise JsonError(f"line {count} is not a record ({error})", path) from None
    return count


def _size(folder: Path) -> tuple[int, float]:
    """Bytes of all files, and when one last changed; 0 where there is none."""
    size, changed = 0, 0.0
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                found = os.lstat(os.path.join(where, name))
            except OSError:  # it went away
                continue
            size, changed = size + found.st_size, max(changed, found.st_mtime)
    return size, changed
