"""The rows of a data file: JSON, JSON lines, CSV, TSV or text, each also as .gz, Parquet or Arrow.

JSON may be a list of objects, an object a line, or one object that holds the list or a list for each column. Cells of
CSV and TSV are texts as they stand. A text file has a row `{text}` a line. Blank lines are skipped.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from wavetune.errors import DataError, JsonError, NotJsonError, one_line
from wavetune.json_reader import parse, read_lines

Row = dict[str, Any]
Rows = Iterator[tuple[str, Row]]

MOST_CHARACTERS = 2**30  # of a JSON document
LISTS = ("data", "rows", "examples", "instances", "train")  # what objects call the list of rows they hold
UTF_16 = "UTF-16 text, not UTF-8: save it as UTF-8"
MAGIC = {
    b"\xff\xfe": UTF_16,
    b"\xfe\xff": UTF_16,
    b"PK\x03\x04": "a zip archive or a spreadsheet: unpack it, or save it as CSV",
    b"BZh": "a bzip2 archive: unpack it",
    b"\xfd7zXZ": "an xz archive: unpack it",
    b"\x28\xb5\x2f\xfd": "a zstd archive: unpack it",
    b"PAR1": "a Parquet file: give its name the ending .parquet",
}


def read_rows(file: Path) -> Rows:
    """Pairs (place, row) of a data file, by the ending of its name.

    Raises: DataError naming the file, and the line or row, if it cannot be read, or is not what its name says.
    """
    kind = kind_of(file.name)
    if not file.is_file():
        raise DataError(f"{file}: is no regular file; name one that holds rows")
    try:
        if kind in TABLES:
            yield from TABLES[kind](file)
        else:
            yield from TEXTS.get(kind, _unnamed_rows)(file, _start(file))
    except JsonError as error:
        raise DataError(f"{file}: {error.reason}") from error
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{file}: cannot be read ({reason[:1].lower()}{reason[1:]})") from error


def kind_of(name: str) -> str:
    """The ending of a file's name without `.gz`, in lower case.

    >>> kind_of("Train.JSONL.gz")
    '.jsonl'
    """
    return Path(name.lower().removesuffix(".gz")).suffix


def named_classes(row: Mapping[str, Any], features: Mapping[str, Any]) -> Row:
    """The row with the names of numbered classes, where the data set knows them."""
    named = dict(row)
    for column, feature in features.items():
        names, value = getattr(feature, "names", None), named.get(column)
        if names and isinstance(value, int) and 0 <= value < len(names):
            named[column] = names[value]
    return named


def table_rows(table: Any, where: str) -> Rows:
    """Pairs (place, row) of a split of the `datasets` library."""
    features = getattr(table, "features", None) or {}
    for number, row in enumerate(table):
        yield f"{where} row {number}", named_classes(row, features)


def saved_splits(folder: Path) -> Mapping[str, Any]:
    """The splits that `datasets` saved in a folder by `save_to_disk`; all is train where it has none.

    Raises: DataError if they cannot be read.
    """
    import datasets

    try:
        saved = datasets.load_from_disk(str(folder))
    except Exception as error:  # the library and pyarrow raise many types; the sentence is what helps
        raise DataError(f"{folder}: cannot read the data set saved there ({one_line(error)}); save it again") from error
    return {str(name): split for name, split in saved.items()} if isinstance(saved, dict) else {"train": saved}


def is_saved(folder: Path) -> bool:
    """Whether `datasets` saved a data set in a folder."""
    return (folder / "dataset_dict.json").exists() or (
        (folder / "state.json").exists() and (folder / "dataset_info.json").exists()
    )


def _json_rows(file: Path, start: str) -> Rows:
    return _listed(file) if start.startswith("[") else _json_lines(file)


def _unnamed_rows(file: Path, start: str) -> Rows:
    if not start.startswith(("[", "{")):
        raise DataError(f"{file}: is not JSON, and its name does not say what it is; known endings are {ENDINGS}")
    return _json_rows(file, start)


def _text_rows(file: Path, start: str) -> Rows:
    if start.startswith("{") and _is_json(next(line for line in _lines(file) if line.strip())):
        yield from _json_lines(file)
        return
    for number, line in enumerate(_lines(file), start=1):
        if line.strip():
            yield f"{file}:{number}", {"text": line.rstrip("\r\n")}


def _json_lines(file: Path) -> Rows:
    first: list[tuple[str, Row]] = []  # kept back, as it may be all there is
    for number, line in enumerate(_lines(file), start=1):
        if not line.strip():
            continue
        place = f"{file}:{number}"
        try:
            row = parse(line, finite=False, unique=False)
        except NotJsonError as error:
            if not first and (whole := _whole(file)) is not None:
                yield from _held(place, whole)
                return
            raise DataError(f"{place}: {error.reason}; {_advice(line)}") from error
        except JsonError as error:
            raise DataError(f"{place}: {error.reason}") from error
        if not isinstance(row, dict):
            raise DataError(f"{place}: a JSON {type(row).__name__}; every line must hold one JSON object")
        if not first:
            first.append((place, row))
            continue
        if len(first) == 1:
            yield first[0]
            first.append((place, row))
        yield place, row
    if len(first) == 1:
        yield from _held(*first[0])


def _advice(line: str) -> str:
    """What to do about a line that is not JSON."""
    whole = line.strip()
    if _is_json(whole.rstrip(",")):
        return "a comma stands behind the object; leave it out, or write the list in brackets"
    if re.search(r"\}\s*\{", whole):
        return "it holds several objects; every line must hold one JSON object"
    if whole.startswith("{") and not line.endswith("\n"):
        return "the file ends inside this line: it was cut off, fetch or write it again"
    return "every line must hold one JSON object"


def _listed(file: Path) -> Rows:
    text = _text(file)
    try:
        rows = parse(text, finite=False, unique=False)
    except NotJsonError as error:
        end = text.rstrip()
        advice = (
            "its lines are lists; every line must hold one JSON object"
            if _is_json(text.lstrip().partition("\n")[0])
            else "the file ends before its list does: it was cut off, fetch or write it again"
            if not end.endswith("]")
            else "a comma stands behind the last row; leave it out"
            if re.search(r",\s*\]$", end)
            else "it must hold one list of objects, or an object a line"
        )
        raise DataError(f"{file}: {error.reason}; {advice}") from error
    yield from _numbered(file, rows)


def _whole(file: Path) -> Row | None:
    """The one object that the file holds over several lines."""
    text = _text(file)
    found = parse(text, finite=False, unique=False) if _is_json(text) else None
    return found if isinstance(found, dict) else None


def _held(place: str, whole: Row) -> Rows:
    """The rows that one object holds: a list of them, a list of cells for each column, or itself."""
    lists = [value for key in LISTS if isinstance(value := whole.get(key), list)]
    if lists:
        return _numbered(place, lists[0])
    columns = [column if isinstance(column, list) else [{}] for column in whole.values()]
    if len({*map(len, columns)}) == 1 and not any(isinstance(cell, dict | list) for c in columns for cell in c):
        return _numbered(place, [dict(zip(whole, cells, strict=True)) for cells in zip(*columns, strict=True)])
    return iter([(place, whole)])


def _numbered(place: object, rows: list[Any]) -> Rows:
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise DataError(f"{place} row {number}: a JSON {type(row).__name__}; every row must be a JSON object")
        yield f"{place} row {number}", row


def _separated(file: Path, start: str) -> Rows:
    """Rows of CSV or TSV: a line of column names, then one of cells for each row."""
    lines = _lines(file)
    header = next(lines, "")
    mark = "\t" if kind_of(file.name) == ".tsv" else max(",;\t|", key=header.count)
    csv.field_size_limit(2**30)
    reader = csv.reader(_chained(header, lines), delimiter=mark, strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
        named = [name for name in names if name]
        if not named or len({*named}) < len(named):
            raise DataError(f"{file}:1: the first line must name every column once, found {', '.join(named) or 'none'}")
        for cells in reader:
            if not any(cells):
                continue
            if len(cells) != len(names):
                raise DataError(f"{file}:{reader.line_num}: {len(cells)} cells for {len(names)} columns; quote cells")
            row = {name: cell for name, cell in zip(names, cells, strict=True) if name}
            yield f"{file}:{reader.line_num}", row
    except csv.Error as error:
        raise DataError(f"{file}:{reader.line_num}: cannot be read as CSV ({error})") from error


def _chained(first: str, rest: Iterable[str]) -> Iterator[str]:
    yield first
    yield from rest


def _parquet(file: Path) -> Rows:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as parquet:
            features = _features(parquet.schema_arrow)
            number = 0
            for batch in parquet.iter_batches():
                for row in batch.to_pylist():
                    yield f"{file} row {number}", named_classes(row, features)
                    number += 1
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{file}: cannot be read as Parquet ({one_line(error)}); fetch or write it again") from error


def _features(schema: Any) -> Mapping[str, Any]:
    """What `datasets` noted about the columns, where it wrote the file."""
    if b"huggingface" not in (schema.metadata or {}):
        return {}
    import datasets

    return datasets.Features.from_arrow_schema(schema)


def _arrow(file: Path) -> Rows:
    import datasets

    try:
        table = datasets.Dataset.from_file(str(file))
    except Exception as error:
        raise DataError(f"{file}: cannot be read as Arrow ({one_line(error)}); save it again") from error
    return table_rows(table, str(file))


def _start(file: Path) -> str:
    """The first visible characters. Raises DataError if the file is packed or written otherwise than its name says."""
    packed = file.name.lower().endswith(".gz")
    with file.open("rb") as stream:
        zipped = stream.read(2) == b"\x1f\x8b"
    if packed != zipped:
        is_not, named = ("is no gzip file", "") if packed else ("is a gzip file", "not ")
        raise DataError(f"{file}: {is_not} though it is {named}named .gz; rename it, or fetch it again")
    with gzip.open(file) if packed else file.open("rb") as stream:
        found = stream.read(2**16)
    for magic, what in MAGIC.items():
        if found.startswith(magic):
            raise DataError(f"{file}: is {what}")
    return found.decode("utf-8-sig", errors="replace").lstrip()


def _lines(file: Path) -> Iterator[str]:
    """Lines with their ends, which may be a carriage return alone."""
    for line in read_lines(file):
        if "\r" in line[:-2]:
            yield from re.findall(r"[^\r\n]*(?:\r\n?|\n)|[^\r\n]+$", line)
        else:
            yield line


def _text(file: Path) -> str:
    """A whole text file, which may be one long line."""
    lines: list[str] = []
    length = 0
    for line in read_lines(file, MOST_CHARACTERS):
        lines.append(line)
        length += len(line)
        if length > MOST_CHARACTERS:
            raise DataError(f"{file}: holds more than {MOST_CHARACTERS} characters; write an object a line instead")
    return "".join(lines)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


TEXTS = {
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), _json_rows),
    **dict.fromkeys((".csv", ".tsv"), _separated),
    ".txt": _text_rows,
}
TABLES = {".parquet": _parquet, ".arrow": _arrow}
ENDINGS = ", ".join((*TEXTS, *TABLES))
