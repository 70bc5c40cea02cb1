"""Corpora of (prompt, answer, domain) examples, from the embedded generator, a file, a folder or the Hugging Face hub.

Row forms (one JSON object a line) are described in `rows.py`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from wavetune.data import movie_reviews
from wavetune.data.concierge import concierge
from wavetune.data.examples import Corpus, Example
from wavetune.data.restaurants import restaurants
from wavetune.data.rows import example_of
from wavetune.data.source import kind_of
from wavetune.errors import DataError, JsonError, NotJsonError
from wavetune.json_reader import parse, read_lines
from wavetune.seeds import stream

EMBEDDED = {"restaurants": restaurants, "concierge": concierge}  # generators, of any size
SPLITS = {"train": ("train",), "validation": ("valid", "validation", "dev"), "test": ("test",)}
SUFFIXES = (".jsonl", ".jsonl.gz")
HOLD_OUT = 0.1  # share of the distinct prompts held out where a corpus has no validation part


def load_corpus(source: str, seed: int = 0) -> Corpus:
    """Corpus of a source: `restaurants`, `concierge`, `movie-reviews`, a folder or file, or a Hugging Face id.

    An id is `owner/name` or `owner/name:config`.

    Raises: DataError if there is no such source or it cannot be read.
    """
    if source in EMBEDDED:
        return EMBEDDED[source](seed=seed)
    if source == movie_reviews.NAME:
        return load_folder(movie_reviews.movie_reviews_folder(), seed)
    if kind_of(source) == "hub":
        return load_hub(source, seed)
    path = Path(source).expanduser()
    return load_folder(path, seed) if path.is_dir() else load_file(path, seed)


def load_folder(path: str | Path, seed: int = 0) -> Corpus:
    """Corpus of a folder with train, valid or validation, and test files, each .jsonl or .jsonl.gz.

    Only train must be there; a missing validation part is held out of train.

    Raises: DataError if no train file is there, or a line is malformed.
    """
    folder = Path(path)
    files = {split: _find(folder, names) for split, names in SPLITS.items()}
    if files["train"] is None:
        found = ", ".join(sorted(p.name for p in folder.iterdir())) if folder.is_dir() else "no such folder"
        looked = " or ".join(f"train{suffix}" for suffix in SUFFIXES)
        raise DataError(f"{folder}: looked for {looked}, found {found or 'nothing'}; name the training file so")
    parts = {split: read_examples(file) if file else () for split, file in files.items()}
    return with_validation(Corpus(folder.name, parts["train"], parts["validation"], parts["test"]), seed)


def load_file(path: str | Path, seed: int = 0) -> Corpus:
    """Corpus of one JSONL file: everything is train but the seeded hold-out."""
    file = Path(path)
    return with_validation(Corpus(file.name, read_examples(file), ()), seed)


def load_hub(identifier: str, seed: int = 0) -> Corpus:
    """Corpus of a Hugging Face data set `owner/name` or `owner/name:config`, read with the `datasets` package.

    Raises: DataError if `datasets` is missing, the hub does not answer, or the rows have no known form.
    """
    try:
        datasets: Any = importlib.import_module("datasets")
    except ImportError as error:
        raise DataError(
            f"{identifier!r} is no file or folder here; to read it from the Hugging Face hub: "
            'pip install "wavetune[hub]"'
        ) from error
    name, _, config = identifier.partition(":")
    try:
        splits = datasets.load_dataset(name, config or None)
    except Exception as error:  # the hub client raises many types; the sentence is what helps
        raise DataError(f"cannot read the Hugging Face data set {identifier!r}: {error}") from error
    chosen = {split: next((n for n in names if n in splits), None) for split, names in SPLITS.items()}
    if chosen["train"] is None:
        raise DataError(f"{identifier!r} has no train split; found {', '.join(splits)}")
    parts = {split: _hub_examples(splits[key], f"{identifier} {key}") if key else () for split, key in chosen.items()}
    return with_validation(Corpus(identifier, parts["train"], parts["validation"], parts["test"]), seed)


def _hub_examples(rows: Any, where: str) -> tuple[Example, ...]:
    """Examples of a split; numbered classes whose names the hub knows get them."""
    names = dict(enumerate(getattr((getattr(rows, "features", None) or {}).get("label"), "names", ())))
    named = ({**row, "label": names.get(row["label"], row["label"])} if names else row for row in rows)
    return tuple(example_of(row, f"{where} row {i}") for i, row in enumerate(named))


def with_validation(corpus: Corpus, seed: int) -> Corpus:
    """The corpus itself if it has a validation part, else with a tenth of the distinct train prompts held out.

    All rows of a prompt stay on one side, so that no validation prompt was seen in training.
    Raises: DataError if train has fewer than two distinct prompts.
    """
    if corpus.validation:
        return corpus
    prompts = sorted({example.prompt for example in corpus.train})
    if len(prompts) < 2:
        raise DataError(
            f"{corpus.name}: {len(prompts)} distinct prompts in train; a validation hold-out needs 2 or more"
        )
    count = max(1, round(HOLD_OUT * len(prompts)))
    held = {prompts[i] for i in stream(seed, "validation hold-out").permutation(len(prompts))[:count]}
    validation = tuple(e for e in corpus.train if e.prompt in held)
    train = tuple(e for e in corpus.train if e.prompt not in held)
    note = (
        f"no validation part: {len(validation)} rows ({count} of {len(prompts)} prompts) of train held out, seed {seed}"
    )
    return replace(corpus, train=train, validation=validation, notes=(*corpus.notes, note))


def read_examples(file: Path) -> tuple[Example, ...]:
    """Examples of a JSONL file, gzip-compressed if its name ends in .gz.

    Raises: DataError with file and line number if a line is malformed, or if there is no line.
    """
    examples = tuple(example_of(row, where) for where, row in read_jsonl(file))
    if not examples:
        raise DataError(f"{file}: no rows")
    return examples


def read_jsonl(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Pairs ("file:line", object) of a JSONL file; blank lines are skipped."""
    for number, line in enumerate(_lines(file), start=1):
        if not line.strip():
            continue
        where = f"{file}:{number}"
        try:
            row = parse(line, finite=False, unique=False)
        except NotJsonError as error:
            raise DataError(f"{where}: {error}; every line must hold one JSON object") from error
        except JsonError as error:
            raise DataError(f"{where}: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{where}: a JSON {type(row).__name__}; every line must hold one JSON object")
        yield where, row


def _lines(file: Path) -> Iterable[str]:
    try:
        yield from read_lines(file)
    except JsonError as error:
        raise DataError(str(error)) from error


def _find(folder: Path, names: Iterable[str]) -> Path | None:
    candidates = (folder / f"{name}{suffix}" for name in names for suffix in SUFFIXES)
    return next((path for path in candidates if path.is_file()), None)
