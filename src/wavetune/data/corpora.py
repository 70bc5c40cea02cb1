"""Corpora of (prompt, answer, domain) examples, from the embedded generator, a file, a folder or the Hugging Face hub.

What a row must hold is described in `rows.py`, how files are read in `row_files.py`, which files of a folder in
`splits.py`.
"""

import importlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from wavetune.data import movie_reviews
from wavetune.data.dialogues import turns_of, unpacked
from wavetune.data.examples import NO_DOMAIN, Corpus, Example
from wavetune.data.given_rows import opened
from wavetune.data.hold_out import HOLD_OUT, with_validation
from wavetune.data.rated import unfolded
from wavetune.data.row_files import is_saved, read_rows, saved_splits, table_rows
from wavetune.data.rows import DIALOGUES, LABELS, Row, form_of, renamed
from wavetune.data.source import kind_of
from wavetune.data.splits import SPLITS, family, split_names, splits_of, stem
from wavetune.errors import DataError, one_line

EMBEDDED = ("restaurants", "concierge")  # generators, of any size


def embedded(name: str, **sizes: int) -> Corpus:
    """What an embedded generator writes: the function in the module of its name, imported when it is asked for."""
    return getattr(importlib.import_module(f"wavetune.data.{name}"), name)(**sizes)


def load_corpus(
    source: str, seed: int = 0, columns: Mapping[str, str] | None = None, hold_out: float = HOLD_OUT
) -> Corpus:
    """Corpus of a source: an embedded one, a folder, a file, a function of somebody's own, or a Hugging Face id.

    Args:
        source: an id is `owner/name` or `owner/name:config`.
        seed: of the generator or of the hold-out.
        columns: of the files, by the field of a row form that each holds; by default those that are known by name.
        hold_out: share of train that is held out where there is no validation part.
    Raises: DataError if there is no such source or it cannot be read.
    """
    if source in EMBEDDED:
        return embedded(source, seed=seed)
    path = movie_reviews.movie_reviews_folder() if source == movie_reviews.NAME else opened(source)
    if source != movie_reviews.NAME and kind_of(source) == "hub":
        return with_validation(_read_tables(hub_splits(source), source, Reading(columns or {})), seed, hold_out)
    return with_validation(_read(path, Reading(columns or {})), seed, hold_out)


def hub_splits(identifier: str) -> Mapping[str, Any]:
    """The splits of a Hugging Face data set `owner/name` or `owner/name:config`. Raises DataError."""
    import datasets

    name, _, config = identifier.partition(":")
    try:
        splits = datasets.load_dataset(name, config or None)
    except Exception as error:  # the hub client raises many types; the sentence is what helps
        raise DataError(
            f"there is no folder or file {identifier!r} here, and it cannot be read as a Hugging Face data set: "
            f"{one_line(error)}"
        ) from error
    return {str(split): rows for split, rows in splits.items()}


@dataclass
class Reading:
    """Makes examples of rows and remembers what of them was not used."""

    columns: Mapping[str, str]
    unused: set[str] = field(default_factory=set[str])
    chosen: Counter[str] = field(default_factory=Counter[str])  # of several answers, in words
    cut_dialogues: int = 0
    dropped: int = 0

    def examples(self, rows: Iterable[tuple[str, Row]]) -> tuple[Example, ...]:
        """Examples of (place, row) pairs, less those without an answer, or with a label and no text."""
        found = (self._example(row, place) for place, row in unfolded(rows, self.chosen))
        return tuple(example for example in found if example is not None)

    def _example(self, row: Row, place: str) -> Example | None:
        row = renamed(row, self.columns, place)
        form = form_of(row, place)
        example = form.example(row, place)
        self.unused.update(key for key, value in row.items() if value is not None and key not in form.fields)
        if form.needed[0] in DIALOGUES and example.reply is not None:
            last = unpacked(row[form.needed[0]])[-1:]
            self.cut_dialogues += turns_of(last, form.needed[0])[-1].role != "assistant"
        if example.answer.strip() and (example.prompt.strip() or form.needed[-1] not in LABELS):
            return example
        self.dropped += 1
        return None

    def notes(self) -> tuple[str, ...]:
        """In sentences what was not used."""
        names = sorted(map(str, self.unused))
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        unused = [f"columns not used: {', '.join(names[:8])}{more}"] if names else []
        cut = [f"{self.cut_dialogues} dialogues go on after their last answer, which is left out"]
        empty = [f"{self.dropped:,} rows without an answer (or a text to classify) dropped"]
        chosen = [f"{count:,} {what}" for what, count in self.chosen.items() if count]
        return (*chosen, *unused, *(cut if self.cut_dialogues else ()), *(empty if self.dropped else ()))

    def corpus(
        self, name: str, parts: Mapping[str, tuple[Example, ...]], notes: Sequence[str], where: object
    ) -> Corpus:
        """The corpus of what was read. Raises DataError if there is no training row."""
        if not parts["train"]:
            none = f"none of the {self.dropped} rows has an answer; there is nothing to train on"
            raise DataError(f"{where}: {none if self.dropped else 'no rows'}")
        return Corpus(
            name, parts["train"], parts.get("validation", ()), parts.get("test", ()), tuple(notes), self.dropped
        )


def _read(path: Path, reading: Reading) -> Corpus:
    """Corpus of a file, all train, or of a folder."""
    if not path.is_dir():
        train = reading.examples(read_rows(path))
        return reading.corpus(path.name, {"train": train}, reading.notes(), path)
    if is_saved(path):
        return _read_tables(saved_splits(path), path.name, reading)
    splits = splits_of(path)
    parts = {split: _read_files(getattr(splits, split), reading) for split in SPLITS}
    read = [file for split in SPLITS for file in getattr(splits, split)]
    notes = list(reading.notes())
    if any(stem(file) not in ("train", "validation", "valid", "test") for file in read):
        notes.insert(0, f"read {_names(read)}")
    if splits.unread:
        notes.append(f"not read: {_names(splits.unread)}")
    return reading.corpus(path.name, parts, notes, path)


def _read_files(files: Sequence[Path], reading: Reading) -> tuple[Example, ...]:
    """Examples of the files of a split; those of a client's own file are a domain of their own."""
    found: list[Example] = []
    for file in files:
        before = reading.dropped
        examples = reading.examples(read_rows(file))
        if not examples and reading.dropped == before:
            raise DataError(f"{file}: no rows")
        if len(files) > 1 and re.match("(client|device|user)", family(file.parent, file)):
            examples = tuple(replace(e, domain=stem(file)) if e.domain == NO_DOMAIN else e for e in examples)
        found.extend(examples)
    return tuple(found)


def _read_tables(tables: Mapping[str, Any], name: str, reading: Reading) -> Corpus:
    names = split_names(list(tables), repr(name))
    parts = {part: reading.examples(table_rows(tables[split], f"{name} {split}")) for part, split in names.items()}
    unread = sorted({*map(str, tables)} - {*names.values()})
    notes = (*reading.notes(), *([f"splits not read: {', '.join(unread)}"] if unread else []))
    return reading.corpus(name, parts, notes, name)


def _names(files: Sequence[Path]) -> str:
    more = f" and {len(files) - 6} more" if len(files) > 6 else ""
    return ", ".join(file.name for file in files[:6]) + more
