"""A sweep's folder: `sweep.json`, what is swept, and `results.jsonl`, a line for every cell that is planned."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wavetune.errors import RunFolderError
from wavetune.federation.run_folder import explained, to_json, write_whole
from wavetune.json_reader import complete_lines, read_json, read_text
from wavetune.sweep.axis import Value, key_of

RESUME = "what was planned before is kept, the same command continues once that is put right"

Record = dict[str, Any]
Key = tuple[str, int, str]


@dataclass
class Results:
    """The records of a folder by value, seed and method."""

    folder: Path
    records: dict[Key, Record] = field(default_factory=dict[Key, Record])

    @classmethod
    def open(cls, folder: Path, identity: Mapping[str, Any]) -> Results:
        """Start or continue a sweep in a folder; the last line of a stopped one may be torn, and is planned again.

        Args:
            folder: where.
            identity: what must be the same for results to go together.

        Raises:
            RunFolderError: the folder holds another sweep, is damaged or cannot be written.
        """
        described, path = folder / "sweep.json", folder / "results.jsonl"
        try:
            old = dict(read_json(described)) if described.exists() else {**identity}
            text = read_text(path) if path.exists() else ""
            whole = text[: text.rfind("\n") + 1]
            lines = complete_lines(path) if path.exists() else []
            records = {key(line["value"], line["seed"], line["method"]): line for line in lines}
        except (ValueError, KeyError, TypeError) as error:
            raise RunFolderError(f"cannot continue the sweep in {folder}: {error}; choose another --out") from error
        if differing := [name for name in identity if old.get(name) != identity[name]]:
            raise RunFolderError(f"{folder} holds a sweep with another {differing[0]}; choose another --out")
        write_whole(described, json.dumps(identity, indent=1) + "\n", RESUME)
        if whole != text:
            write_whole(path, whole, RESUME)
        return cls(folder, records)

    def add(self, record: Record) -> None:
        """Append one cell."""
        path = self.folder / "results.jsonl"
        with explained(path, RESUME), path.open("a", encoding="utf-8") as file:
            file.write(to_json(record, path) + "\n")
        self.records[key(record["value"], record["seed"], record["method"])] = record


def key(value: Value, seed: int, method: str) -> Key:
    """What tells the cells of a sweep apart."""
    return key_of(value), seed, method
