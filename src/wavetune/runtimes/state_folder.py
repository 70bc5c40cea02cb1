"""What a device keeps between rounds: states as safetensors in the folder of a run, readable by their owner alone."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import safe_open

from wavetune.errors import RunFolderError
from wavetune.federation.run_folder import each_its_own, explained
from wavetune.json_reader import require_file

if TYPE_CHECKING:
    from torch import Tensor

_ROOM = "free some space, what it kept before is still there"
_PATTERN, _RUN = "state-*.safetensors", "run-"
_OWN = (_PATTERN, "recipe.json", "alignment_*.json", "adapters", "rewards", "log.txt", f"{_RUN}*")


def latest(folder: Path) -> Path | None:
    """The folder of the run that kept a state last, in a device's folder; None if none did."""
    states = [path for place in (folder, *folder.glob(f"{_RUN}*")) for path in place.glob(_PATTERN)]
    return max(states, key=lambda path: path.stat().st_mtime_ns).parent if states else None


def of_run(folder: Path, run: str) -> Path:
    """Where a run's states belong in a device's folder: there if it is free or theirs, else in one of their own."""
    owner = next((_of(path)[0] for path in sorted(folder.glob(_PATTERN))), run)
    name = run if re.fullmatch(r"[0-9A-Za-z]{1,64}", run) else hashlib.sha256(run.encode()).hexdigest()[:16]
    return folder if owner == run else folder / f"{_RUN}{name}"


def require_room(folder: Path, most_runs: int, most_bytes: float) -> None:
    """Raise RunFolderError where a device's folder holds so much already that no further run may begin there."""
    runs = len(list(folder.glob(f"{_RUN}*"))) + 1  # and that in the folder itself
    used = sum(path.lstat().st_size for path in folder.rglob("*"))
    if runs >= most_runs or used >= most_bytes:
        raise RunFolderError(
            f"{folder} holds {runs} runs and {used / 1e9:.3g} GB: a further one may not begin there; remove folders "
            f"{_RUN}* of runs that have ended, or start this device with a larger --keep-runs or --keep-gb"
        )


def kept(folder: Path) -> tuple[str, dict[int, Path]]:
    """The run whose states are in its folder, and their files by the number of rounds done. Raises RunFolderError."""
    run, files = "", dict[int, Path]()
    for path in sorted(folder.glob(_PATTERN)):
        of, done = _of(path)
        if of != run:
            run, files = of, {}
        files[done] = path
    return run, files


def read(folder: Path) -> tuple[str, dict[int, dict[str, Tensor]]]:
    """The run whose states are in its folder, and these by the number of rounds done. Raises RunFolderError."""
    from safetensors.torch import load_file

    run, files = kept(folder)
    states: dict[int, dict[str, Tensor]] = {}
    for done, path in files.items():
        try:
            states[done] = load_file(path)
        except Exception as error:  # safetensors has types of its own
            raise _unreadable(path, error) from error
    return run, states


def recipe_of(folder: Path) -> str:
    """The recipe of the run whose states are in its folder, as they were written; empty if none was."""
    for path in folder.glob(_PATTERN):
        with safe_open(path, "np") as stored:
            return str(stored.metadata().get("recipe", ""))
    return ""


def write(folder: Path, run: str, done: int, states: Mapping[int, Mapping[str, Tensor]], recipe: str = "") -> None:
    """Keep the state after `done` rounds, whole or not at all, and of older ones those that are still given."""
    from safetensors.torch import save_file

    part = folder / f"state-{done:06d}.part"
    with explained(folder, _ROOM):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            about = {"run": run, "rounds_done": str(done), "recipe": recipe}
            save_file(each_its_own(states[done]), part, metadata=about)
            os.replace(part, folder / f"state-{done:06d}.safetensors")
        finally:
            part.unlink(missing_ok=True)
        for old in sorted(folder.glob(_PATTERN)):
            if int(old.stem.removeprefix("state-")) not in states:
                old.unlink()


def hide(folder: Path) -> None:
    """Take others' rights to a device's folder and what it wrote there. Raises RunFolderError if that fails."""
    own = [path for pattern in _OWN for path in folder.glob(pattern)]
    within = [path for place in own if place.is_dir() for path in place.rglob("*")]
    with explained(folder, "what a device keeps is its owner's alone; choose another --state"):
        for path in (folder, *own, *within):
            mode = stat.S_IMODE(path.lstat().st_mode)
            if mode & 0o077 and not path.is_symlink():
                path.chmod(mode & 0o700)


def _of(path: Path) -> tuple[str, int]:
    """The run that a state is of, and after how many of its rounds; its values are not read."""
    try:
        with safe_open(require_file(path), "np") as stored:
            metadata = stored.metadata()
            return str(metadata["run"]), int(metadata["rounds_done"])
    except Exception as error:  # safetensors has types of its own
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> RunFolderError:
    return RunFolderError(f"cannot read {path} ({error}); remove it to start this device afresh")
