"""Typed reader of run folders that keeps what it can and says what it could not read.

An unknown number is NaN, an unknown list is empty, so that a half-written run reads like a whole one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from wavetune.errors import JsonError, NotJsonError, RunFolderError
from wavetune.json_reader import LONGEST_RECORDS, parse, read_text
from wavetune.records.alignment import AlignmentStep, HeldOut
from wavetune.records.fields import UNKNOWN, gathered
from wavetune.records.rounds import Round
from wavetune.records.scores import Scored
from wavetune.records.summary import Sample, Summary
from wavetune.records.world import World

if TYPE_CHECKING:
    from pydantic import TypeAdapter

FILES = ("recipe.json", "rounds.jsonl", "summary.json", "world.json", "samples.json")
LARGEST = 1e100
T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """Everything a run folder says. `problems` holds one sentence for each thing that could not be read."""

    folder: Path
    recipe: dict[str, Any]
    rounds: tuple[Round, ...]
    summary: Summary
    world: World
    samples: tuple[Sample, ...]
    problems: tuple[str, ...]
    alignment: tuple[AlignmentStep, ...] = ()
    held_out_before: HeldOut = field(default_factory=lambda: HeldOut(()))
    held_out_after: HeldOut = field(default_factory=lambda: HeldOut(()))
    state: dict[str, Any] = field(default_factory=dict[str, Any])  # what was known before the first round
    scored: tuple[Scored, ...] = ()


def read_run(folder: Path) -> Run:
    """Read a run folder; missing or torn files become sentences in `problems`.

    Raises: RunFolderError if the folder does not exist or holds none of the record files.
    """
    if not any((folder / name).is_file() for name in FILES):
        raise RunFolderError(f"{folder} holds no run records; expected at least one of {', '.join(FILES)}")
    problems: list[str] = []
    paths = sorted(folder.glob("evaluations/*/evaluation.json"))
    return Run(
        folder=folder,
        recipe=_read(folder / "recipe.json", dict[str, Any], {}, problems),
        rounds=_read_lines(folder / "rounds.jsonl", Round, "round", problems),
        summary=_read(folder / "summary.json", Summary, Summary(), problems),
        world=_read(folder / "world.json", World, World(), problems),
        samples=_read(folder / "samples.json", tuple[Sample, ...], (), problems),
        alignment=_read_lines(folder / "alignment.jsonl", AlignmentStep, "step", problems, optional=True),
        held_out_before=_read(folder / "alignment_before.json", HeldOut, HeldOut(()), problems, optional=True),
        held_out_after=_read(folder / "alignment_after.json", HeldOut, HeldOut(()), problems, optional=True),
        state=_read(folder / "state.json", dict[str, Any], {}, problems, optional=True),
        scored=tuple(found for path in paths if (found := _read(path, Scored, None, problems)) is not None),
        problems=tuple(problems),
    )


def _read(path: Path, kind: Any, default: Any, problems: list[str], optional: bool = False) -> Any:
    if not path.exists():
        problems += [] if optional else [f"{path.name} is missing."]
        return default
    ignored: list[str] = []
    try:
        return _parse(read_text(path, errors="replace"), kind, ignored)
    except ValueError as error:
        ignored = [f"not readable ({_reason(error)})"]
        return default
    finally:
        problems.extend(f"{path.name}: {reason}; left out." for reason in ignored)


def _read_lines(path: Path, kind: Any, index: str, problems: list[str], optional: bool = False) -> tuple[Any, ...]:
    """Records in order of their index; one written twice (by a resumed run) counts once, as written last."""
    if not path.exists():
        problems += [] if optional else [f"{path.name} is missing."]
        return ()
    try:
        lines = read_text(path, LONGEST_RECORDS, "replace").rstrip("\n").split("\n")
    except JsonError as error:
        problems.append(f"{path.name}: not readable ({error.reason}); left out.")
        return ()
    records: dict[int, Any] = {}
    ignored: list[str] = []
    for number, line in enumerate(lines, start=1):
        try:
            record = _parse(line, kind, ignored) if line.strip() else None
        except NotJsonError:
            ignored.append("the last line is torn" if number == len(lines) else f"line {number} is not JSON")
        except ValueError as error:
            ignored.append(f"line {number} is not a {index} ({_reason(error)})")
        else:
            records |= {getattr(record, index): record} if record else {}
    for reason, times in Counter(ignored).items():
        problems.append(f"{path.name}: {reason}{f', in {times} lines' if times > 1 else ''}; left out.")
    return tuple(records[number] for number in sorted(records))


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def read_record(kind: type[T], document: Mapping[str, Any]) -> T:
    """A record of a kind from the document that it was written as."""
    return _record(document, kind, [])


def _parse(text: str, kind: Any, ignored: list[str]) -> Any:
    return _record(parse(text, finite=False, unique=False), kind, ignored)


def _record(document: Any, kind: Any, ignored: list[str]) -> Any:
    """Validate a document; fields that do not fit are named in `ignored` and read as absent."""
    from pydantic import ValidationError

    document = _known(document, ignored)
    if isinstance(document, dict) and is_dataclass(kind):
        document = gathered(kind, document)
    try:
        return _adapter(kind).validate_python(document)
    except ValidationError as error:
        bad = {first["loc"][0] for first in error.errors() if first["loc"]}
        if not isinstance(document, dict) or not bad <= document.keys():
            raise
        valid = _adapter(kind).validate_python({key: value for key, value in document.items() if key not in bad})
        ignored.append(_reason(error))
        return valid


def _known(value: Any, ignored: list[str]) -> Any:
    """Drop null fields, so that their defaults hold, and read null inside a list as NaN.

    Numbers that no sum or axis could hold are read as null too.
    """
    if isinstance(value, dict):
        known = {key: _known(item, ignored) for key, item in value.items()}
        return {key: item for key, item in known.items() if item is not None}
    if isinstance(value, list):
        return [UNKNOWN if (item := _known(each, ignored)) is None else item for each in value]
    if isinstance(value, int | float) and abs(value) > LARGEST:
        ignored.append(f"a number is beyond {LARGEST:.0e}")
        return None
    return value


def _reason(error: ValueError) -> str:
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc'])) or 'the document'}: {first['msg']}"
    return error.reason if isinstance(error, JsonError) else str(error)
