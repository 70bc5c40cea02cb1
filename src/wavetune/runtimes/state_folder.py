"""What a device keeps between rounds: states as safetensors in the folder of a run, readable by their owner alone."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import safe_open

from wavetune.errors import JsonError, RunFolderError, one_line
from wavetune.federation.run_folder import each_its_own, explained, sha256_of, sync, write_whole
from wavetune.json_reader import read_text, require_file

if TYPE_CHECKING:
    from torch import Tensor

_ROOM = "free some space, what it kept before is still there"
_PATTERN, _RUN, _DIGESTS = "state-*.safetensors", "run-", "states.sha256"
_OWN = (_PATTERN, _DIGESTS, "recipe.json", "alignment_*.json", "adapters", "rewards", "log.txt", f"{_RUN}*")


def latest(folder: Path) -> Path | None:
    """The folder of the run that kept a state last, in a device's folder; None if none did."""
    states = [path for place in (folder, *folder.glob(f"{_RUN}*")) for path in place.glob(_PATTERN)]
    return max(states, key=lambda path: path.stat().st_mtime_ns).parent if states else None


def of_run(folder: Path, run: str) -> Path:
    """Where a run's states belong in a device's folder: there if it is free or theirs, else in one of their own."""
    owner = kept(folder)[0] or run
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


def kept(folder: Path, say: Callable[[str], None] = lambda _text: None) -> tuple[str, dict[int, Path]]:
    """The run whose states are in its folder, and their files by the number of rounds done; says which are passed over.

    These are states that cannot be read or are not as they were written. Raises RunFolderError where no state is.
    """
    run, files, last = "", dict[int, Path](), None
    written = _written(folder)
    for path in sorted(folder.glob(_PATTERN)):
        try:
            of, done = _of(path)
            if written is not None and sha256_of(path) not in written.get(path.name, ()):
                raise ValueError("it is another than was written there")
        except Exception as error:  # safetensors has types of its own
            last = path, error
            say(f"passes over {path} ({one_line(error)})")
            continue
        if of != run:
            run, files = of, {}
        files[done] = path
    if last is not None and not files:
        raise RunFolderError(f"cannot read {last[0]} ({one_line(last[1])}); remove it to start this device afresh")
    return run, files


def read(
    folder: Path, say: Callable[[str], None] = lambda _text: None
) -> tuple[str, dict[int, dict[str, Tensor]], str]:
    """The run whose states are in its folder, these by the number of rounds done, and its recipe as it was written.

    Says which are passed over. Raises RunFolderError where no state is as it was written.
    """
    from safetensors.torch import load_file

    run, files = kept(folder, say)
    recipe = ""
    for path in files.values():
        with safe_open(path, "np") as stored:
            recipe = str(stored.metadata().get("recipe", ""))
    return run, {done: load_file(path) for done, path in files.items()}, recipe


def write(folder: Path, run: str, done: int, states: Mapping[int, Mapping[str, Tensor]], recipe: str = "") -> None:
    """Keep the state after `done` rounds, whole or not at all, and of older ones those that are still given.

    A file beside them has their digests, as `sha256sum` writes them. It is written first and names a state that is
    there as well as the one that takes its place, so that whenever this ends what is there is known.
    """
    from safetensors.torch import save_file

    part, name = folder / f"state-{done:06d}.part", f"state-{done:06d}.safetensors"
    with explained(folder, _ROOM):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            about = {"run": run, "rounds_done": str(done), "recipe": recipe}
            save_file(each_its_own(states[done]), part, metadata=about)
            sync(part)
            given = {f"state-{number:06d}.safetensors" for number in states}
            before = _written(folder)
            if before is None:  # states of a version that wrote no digests
                before = {path.name: (sha256_of(path),) for path in folder.glob(_PATTERN) if path.name in given}
            lines = [f"{digest}  {old}\n" for old, digests in before.items() if old in given for digest in digests]
            lines = [*dict.fromkeys((*lines, f"{sha256_of(part)}  {name}\n"))]
            write_whole(folder / _DIGESTS, "".join(lines), _ROOM)
            os.replace(part, folder / name)
        finally:
            part.unlink(missing_ok=True)
        for old in sorted(folder.glob(_PATTERN)):
            if old.name not in given:
                old.unlink()


def _written(folder: Path) -> dict[str, tuple[str, ...]] | None:
    """The digests of what was written, by the names of files; None where none are kept."""
    path, found = folder / _DIGESTS, dict[str, tuple[str, ...]]()
    if not path.exists():
        return None
    try:
        lines = read_text(path, errors="replace").splitlines()
    except JsonError:  # no file: nothing is known to be as it was written
        return {}
    for line in lines:
        digest, _, name = line.partition("  ")
        found[name] = (*found.get(name, ()), digest)
    return found


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
    with safe_open(require_file(path), "np") as stored:
        metadata = stored.metadata()
        return str(metadata["run"]), int(metadata["rounds_done"])
