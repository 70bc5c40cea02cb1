"""The files of a run: recipe, records, checkpoints. Everything is written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from wavetune.errors import JsonError, NumericsError, RunFolderError, WavetuneError, one_line
from wavetune.json_reader import complete_lines, read_json, require_file

if TYPE_CHECKING:
    from torch import Tensor

RESUME = "what was saved before is kept, continue with --resume once that is put right"
ROUNDS, ALIGNMENT = "rounds.jsonl", "alignment.jsonl"
ELSEWHERE = "free some space or choose another place"
_UNFIT = "what was saved does not fit its recipe"
_KEPT_CHECKPOINTS = 2
_STATE, _DIGEST = "state.safetensors", "state.sha256"
_ROUNDS_DONE = re.compile("round-([0-9]{6,12})")


def part_of(state: Mapping[str, Tensor], beginning: str) -> dict[str, Tensor]:
    """What the names of a state's tensors begin with so, under the rest of their names."""
    return {name.removeprefix(beginning): t for name, t in state.items() if name.startswith(beginning)}


def fitting(saved: Mapping[str, Tensor], name: str, place: Tensor, *, copied: bool = True) -> Tensor:
    """What was saved of this name, for its place: to be `copied` there, of any float type, or else to take it.

    Raises RunFolderError where it is missing or no such tensor.
    """
    found = saved.get(name)
    alike = found is not None and (
        found.dtype == place.dtype or (copied and found.is_floating_point() and place.is_floating_point())
    )
    if found is None or found.shape != place.shape or not alike:
        what = "missing" if found is None else f"{list(found.shape)} of {found.dtype}"
        wanted = f"{list(place.shape)} of {place.dtype}"
        raise RunFolderError(f"{_UNFIT} ({name} is {what} and should be {wanted}); start a new run")
    return found


@contextmanager
def fits() -> Generator[None]:
    """What goes wrong in this block, where a saved state is put in its place, becomes a RunFolderError."""
    try:
        yield
    except WavetuneError:
        raise
    except (LookupError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise RunFolderError(f"{_UNFIT} ({type(error).__name__}: {one_line(error)}); start a new run") from error


@contextmanager
def explained(path: Path, remedy: str = RESUME) -> Generator[None]:
    """What the disk refuses in this block becomes one sentence that names `path`. Raises RunFolderError."""
    try:
        yield
    except RunFolderError:
        raise
    except (OSError, SafetensorError) as error:  # safetensors has a type of its own for a full disk
        inner = re.search(r"\(os error (\d+)\)", str(error))
        reason = os.strerror(int(inner[1])) if inner else getattr(error, "strerror", None) or str(error)
        raise RunFolderError(f"cannot write {path}: {reason[:1].lower()}{reason[1:]}; {remedy}") from error


def write_whole(path: Path, text: str, remedy: str = RESUME) -> None:
    """Write a text file so that a reader, or a killed process, sees the old content or the new, never a part."""
    with explained(path, remedy):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        part.unlink(missing_ok=True)  # whatever a link there leads to is nobody's to write over
        part.write_text(text, encoding="utf-8")
        sync(part)
        os.replace(part, path)


def to_json(value: Any, path: Path, indent: int | None = None) -> str:
    """A value as JSON for a file. Raises NumericsError if a number in it is not finite, which JSON cannot hold."""
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError as error:
        raise NumericsError(
            f"{path.name} would hold a number that is not finite: a delay or an energy is beyond all bounds; check the "
            "values and units of world.scenario"
        ) from error


@dataclass(frozen=True)
class RunFolder:
    """One run's folder."""

    path: Path

    @classmethod
    def create(cls, path: Path) -> RunFolder:
        """A new run folder. Raises RunFolderError if it holds a run already or cannot be written."""
        if (path / "recipe.json").exists():
            raise RunFolderError(f"{path} already holds a run; continue it with --resume or choose another --out")
        with explained(path, ELSEWHERE):
            (path / "checkpoints").mkdir(parents=True, exist_ok=True)
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run folder. Raises RunFolderError if there is none."""
        if not (path / "recipe.json").exists():
            raise RunFolderError(f"{path} holds no run (no recipe.json); start one without --resume")
        with explained(path):
            (path / "checkpoints").mkdir(parents=True, exist_ok=True)
        return cls(path)

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file."""
        write_whole(self.path / name, to_json(value, self.path / name, indent=1) + "\n")

    def read_json(self, name: str, kind: Any = dict[str, Any]) -> Any:
        """Read a JSON file; None if it is missing.

        Raises: RunFolderError if it cannot be read, or holds another kind than this type, as pydantic understands it.
        """
        path = self.path / name
        if not path.exists():
            return None
        try:
            found = read_json(path)
        except JsonError as error:
            raise RunFolderError(str(error)) from error
        return _of_kind(found, kind, path)

    def append_round(self, record: Mapping[str, Any], name: str = ROUNDS) -> None:
        """Add one line to rounds.jsonl, or to another file of records."""
        path = self.path / name
        with explained(path):
            with path.open("a", encoding="utf-8") as file:
                file.write(to_json(record, path) + "\n")
            sync(path)

    def read_rounds(self, name: str = ROUNDS, kind: Any = dict[str, Any]) -> list[dict[str, Any]]:
        """All complete lines of a file of records. Raises RunFolderError if one is damaged or of another kind."""
        path = self.path / name
        try:
            found = complete_lines(path) if path.exists() else []
        except JsonError as error:
            raise RunFolderError(f"{error}; repair it or start a new run") from error
        return _of_kind(found, list[kind], path)

    def keep_rounds(self, count: int, name: str = ROUNDS) -> None:
        """Drop the records of rounds after the first `count`: they are run again."""
        lines = [json.dumps(record) + "\n" for record in self.read_rounds(name)[:count]]
        write_whole(self.path / name, "".join(lines))

    def save_checkpoint(self, rounds_done: int, tensors: Mapping[str, Tensor]) -> None:
        """Save the state after `rounds_done` rounds; older checkpoints but the last one are dropped."""
        from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]

        folder = self.path / "checkpoints" / f"round-{rounds_done:06d}"
        part = folder.with_name(folder.name + ".part")
        saved = each_its_own(tensors)
        with explained(folder):
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            save_file(saved, part / _STATE)
            (part / _DIGEST).write_text(f"{sha256_of(part / _STATE)}  {_STATE}\n", encoding="utf-8")
            for written in (part / _STATE, part / _DIGEST, part):
                sync(written)
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(part, folder)
            for old in self._checkpoints()[:-_KEPT_CHECKPOINTS]:
                shutil.rmtree(old, ignore_errors=True)

    def load_checkpoint(
        self, say: Callable[[str], None] | None = None, recorded: float = math.inf
    ) -> tuple[int, dict[str, Tensor]] | None:
        """Rounds done and state of the newest checkpoint that is as it was written, or None; says which are not.

        One of more rounds than are `recorded` is none of them.
        """
        from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]

        for folder in reversed(self._checkpoints()):
            try:
                path, digest, done = require_file(folder / _STATE), folder / _DIGEST, int(folder.name[len("round-") :])
                if digest.exists() and require_file(digest).read_text("utf-8").split()[:1] != [sha256_of(path)]:
                    raise ValueError("it is another than was written there")
                if done > recorded:
                    raise ValueError(f"of its {done} rounds {recorded} have a record")
                return done, load_file(path)
            except Exception as error:
                if say is not None:
                    say(f"cannot go on from {folder} ({one_line(error)}): goes on from where the run was before")
        return None

    def _checkpoints(self) -> list[Path]:
        """Checkpoints from old to new; whatever else lies beside them is left alone."""
        found = {p: _ROUNDS_DONE.fullmatch(p.name) for p in (self.path / "checkpoints").iterdir()}
        return sorted((p for p, name in found.items() if name), key=lambda p: int(p.name.removeprefix("round-")))


def sync(path: Path) -> None:
    """Have a file, or what a folder holds, on the disk before what follows, whenever the machine loses its power.

    File systems that cannot do that, of folders some, are let be. Raises OSError where the disk fails.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """The digest of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _of_kind(found: Any, kind: Any, path: Path) -> Any:
    from pydantic import TypeAdapter, ValidationError

    try:
        TypeAdapter(kind).validate_json(json.dumps(found), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = "".join(f"[{at}]" if isinstance(at, int) else f".{at}" for at in first["loc"])
        reason = f"${place}: {first['msg'][:1].lower()}{first['msg'][1:]}"
        raise RunFolderError(f"{path} is damaged ({reason}); repair it or start a new run") from None
    return found


def each_its_own(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as a file keeps them: on the CPU, in one piece, and none in the memory of another."""
    found: dict[str, Tensor] = {}
    taken = set[int]()
    for name, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        found[name] = own.clone() if own.data_ptr() in taken else own
        taken.add(own.data_ptr())
    return found
