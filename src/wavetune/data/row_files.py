"""The rows of a data file: JSON, JSON lines, CSV, TSV or text, each also as .gz, .bz2, .xz or .zst, Parquet or Arrow.

JSON may be a list of objects, objects one behind the other, or one object that holds the list or a list for each
column; a row that is a list of messages is `{messages}`. Cells of CSV and TSV are texts as they stand. A text file has
a row `{text}` a line. Blank lines are skipped. An article of SQuAD, with paragraphs of questions, has a row a question.
"""

import json
import lzma
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from wavetune.csv_files import read_cells
from wavetune.data.dialogues import is_messages
from wavetune.errors import DataError, JsonError, NotJsonError, one_line
from wavetune.json_reader import PACKED, opened_packed, packing, parse, read_lines

Row = dict[str, Any]
Rows = Iterator[tuple[str, Row]]

MOST_CHARACTERS = 2**30  # of a JSON document
LISTS = ("data", "rows", "examples", "instances", "records", "samples", "items", "train")  # names of a list of rows
OTHER_SPLITS = ("validation", "valid", "val", "dev", "test", "eval")  # beside which `train` is not all
UTF_16 = "UTF-16 text, not UTF-8: save it as UTF-8"
MAGIC = {
    b"\xff\xfe": UTF_16,
    b"\xfe\xff": UTF_16,
    b"PK\x03\x04": "a zip archive or a spreadsheet: unpack it, or save it as CSV",
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
        if kind in TABLES and packing(file.name):
            raise DataError(f"{file}: a table that is compressed once more is not read; unpack it")
        if kind in TABLES:
            yield from TABLES[kind](file)
        else:
            for place, row in TEXTS.get(kind, _unnamed_rows)(file, _start(file)):
                yield from ((place, one) for one in _questions(row))
    except JsonError as error:
        raise DataError(f"{file}: {error.reason}") from error
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{file}: cannot be read ({reason[:1].lower()}{reason[1:]})") from error


def kind_of(name: str) -> str:
    """The ending of a file's name without that of a compressed one, in lower case.

    >>> kind_of("Train.JSONL.gz")
    '.jsonl'
    """
    return Path(name.lower().removesuffix(packing(name))).suffix


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
    if start.startswith("{") and _is_json(next(line for line in read_lines(file) if line.strip())):
        yield from _json_lines(file)
        return
    for number, line in enumerate(read_lines(file), start=1):
        if line.strip():
            yield f"{file}:{number}", {"text": line.rstrip("\r\n")}


def _json_lines(file: Path) -> Rows:
    first: list[tuple[str, Row]] = []  # kept back, as it may be all there is
    for number, line in enumerate(read_lines(file), start=1):
        if not line.strip():
            continue
        place = f"{file}:{number}"
        try:
            found = [parse(line, finite=False, unique=False)]
        except NotJsonError as error:
            if (found := _one_by_one(line)) is None:
                if not first and (whole := _one_by_one(_text(file))) is not None:
                    yield from _held(file, whole[0]) if len(whole) == 1 else _numbered(file, whole)
                    return
                raise DataError(f"{place}: {error.reason}; {_advice(line)}") from error
        except JsonError as error:
            raise DataError(f"{place}: {error.reason}") from error
        for row in found:
            if not isinstance(row := _dialogue(row), dict):
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


def _questions(row: Row) -> list[Row]:
    """The rows of an article of SQuAD, one a question, and any other row alone.

    >>> _questions({"title": "T", "paragraphs": [{"context": "C", "qas": [{"question": "Q", "answers": []}]}]})
    [{'title': 'T', 'context': 'C', 'question': 'Q', 'answers': []}]
    """
    paragraphs = row.get("paragraphs")
    if not isinstance(paragraphs, list) or not all(isinstance(p, dict) and "qas" in p for p in paragraphs):
        return [row]
    asked = [(p, question) for p in paragraphs for question in p["qas"] or ()]
    return [{"title": row.get("title"), "context": p.get("context"), **question} for p, question in asked]


def _one_by_one(text: str) -> list[Any] | None:
    """The objects that stand one behind the other in a text, with white space or commas between; None if not all do.

    >>> _one_by_one('{"a": 1}, {"a": 2}')
    [{'a': 1}, {'a': 2}]
    """
    found, place, decoder = list[Any](), 0, json.JSONDecoder()
    while start := re.compile(r"[\s,]*(?=\{)").match(text, place):
        try:
            _, place = decoder.raw_decode(text, start.end())
        except (ValueError, RecursionError):
            return None
        found.append(parse(text[start.end() : place], finite=False, unique=False))
    return found if found and not text[place:].strip() else None


def _dialogue(row: Any) -> Any:
    """A row that is a list of messages, as the object that holds it."""
    return {"messages": row} if is_messages(row) else row


def _advice(line: str) -> str:
    """What to do about a line that is not JSON."""
    if line.strip().startswith("{") and not line.endswith("\n"):
        return "the file ends inside this line: it was cut off, fetch or write it again"
    return "every line must hold one JSON object"


def _listed(file: Path) -> Rows:
    text = _text(file)
    try:
        rows = parse(text, finite=False, unique=False)
    except NotJsonError as error:
        end, first = text.rstrip(), text.lstrip().partition("\n")[0]
        if _is_json(first) and is_messages(json.loads(first)):
            yield from _json_lines(file)
            return
        advice = (
            "its lines are lists; every line must hold one JSON object"
            if _is_json(first)
            else "the file ends before its list does: it was cut off, fetch or write it again"
            if not end.endswith("]")
            else "a comma stands behind the last row; leave it out"
            if re.search(r",\s*\]$", end)
            else "it must hold one list of objects, or an object a line"
        )
        raise DataError(f"{file}: {error.reason}; {advice}") from error
    yield from _numbered(file, [rows] if is_messages(rows) else rows)


def _held(place: object, whole: Row) -> Rows:
    """The rows that one object holds: a list of them, a list or object of cells for each column, or itself."""
    others = [key for key in OTHER_SPLITS if isinstance(whole.get(key), list)]
    if isinstance(whole.get("train"), list) and others:
        names = f"train and {' and '.join(others)}"
        raise DataError(f"{place}: it holds the lists {names}; write each to a file of that name, in one folder")
    lists = [value for key in LISTS if isinstance(value := whole.get(key), list)]
    if names := whole.get("columns"):  # as pandas writes a table by `orient="split"`
        rows = [row for row in lists[0] if isinstance(row, list)] if lists and isinstance(names, list) else []
        if rows and all(len(row) == len(names) for row in rows) and len(rows) == len(lists[0]):
            return _numbered(place, [dict(zip(names, row, strict=True)) for row in rows])
    if lists and any(isinstance(row, dict) or is_messages(row) for row in lists[0]):
        return _numbered(place, lists[0])
    if (rows := _columns(whole)) is not None:
        return _numbered(place, rows)
    return iter([(str(place), whole)])


def _columns(whole: Row) -> list[Row] | None:
    """The rows of an object with a list of cells for each column, or with an object of them, by the row's number."""
    columns = list(whole.values())
    if len(columns) > 1 and all(isinstance(column, dict) and {*column} == {*columns[0]} for column in columns):
        numbered = all(key.isdigit() for key in columns[0])  # else each is a row by itself
        return [{key: column[row] for key, column in whole.items()} for row in columns[0]] if numbered else columns
    if not all(isinstance(column, list) for column in columns) or len({*map(len, columns)}) != 1:
        return None
    if any(isinstance(cell, dict) for column in columns for cell in column):
        return None  # such as the messages of one row
    return [dict(zip(whole, cells, strict=True)) for cells in zip(*columns, strict=True)]


def _numbered(place: object, rows: list[Any]) -> Rows:
    for number, row in enumerate(map(_dialogue, rows)):
        if not isinstance(row, dict):
            raise DataError(f"{place} row {number}: a JSON {type(row).__name__}; every row must be a JSON object")
        yield f"{place} row {number}", row


def _separated(file: Path, start: str) -> Rows:
    """Rows of CSV or TSV: a line of column names, then one of cells for each row."""
    _, rows = read_cells(file)
    _, names = next(rows)
    for place, cells in rows:
        yield place, {name: cell for name, cell in zip(names, cells, strict=True) if name}


def _parquet(file: Path) -> Rows:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as parquet:
            yield from _batch_rows(file, parquet.schema_arrow, parquet.iter_batches())
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{file}: cannot be read as Parquet ({one_line(error)}); fetch or write it again") from error


def _batch_rows(file: Path, schema: Any, batches: Iterable[Any]) -> Rows:
    features, number = _features(schema), 0
    if len({*schema.names}) < len(schema.names):
        raise DataError(f"{file}: every column must be named once, found {', '.join(schema.names)}")
    for batch in batches:
        for row in batch.to_pylist():
            yield f"{file} row {number}", named_classes(row, features)
            number += 1


def _features(schema: Any) -> Mapping[str, Any]:
    """What `datasets` noted about the columns, where it wrote the file."""
    if b"huggingface" not in (schema.metadata or {}):
        return {}
    import datasets

    return datasets.Features.from_arrow_schema(schema)


def _arrow(file: Path) -> Rows:
    """Rows of Arrow as a stream, which `datasets` writes, or as a file, which is Feather."""
    import pyarrow

    try:
        with file.open("rb") as source:
            is_file = source.read(6) == b"ARROW1"
            source.seek(0)
            with (pyarrow.ipc.open_file if is_file else pyarrow.ipc.open_stream)(source) as reader:
                batches = map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader
                yield from _batch_rows(file, reader.schema, batches)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{file}: cannot be read as Arrow ({one_line(error)}); save it again") from error


def _start(file: Path) -> str:
    """The first visible characters. Raises DataError if the file is packed or written otherwise than its name says."""
    named = packing(file.name)
    with file.open("rb") as stream:
        begins = stream.read(8)
        packed = next((ending for ending, (magic, _) in PACKED.items() if begins.startswith(magic)), "")
        if packed != named:
            is_not = f"is a {packed} file though it is not" if packed else f"is no {named} file though it is"
            raise DataError(f"{file}: {is_not} named so; rename it, or fetch it again")
        stream.seek(0)
        found = opened_packed(file.name, stream).read(2**16)
    for magic, what in MAGIC.items():
        if found.startswith(magic):
            raise DataError(f"{file}: is {what}")
    if b"\0" in found and kind_of(file.name) not in TEXTS:
        raise DataError(f"{file}: is a binary file of a kind that is not read; known endings are {ENDINGS}")
    if b"\0" in found:
        raise DataError(f"{file}: holds NUL characters, as UTF-16 text and binary files do; save it as UTF-8 text")
    return found.decode("utf-8-sig", errors="replace").lstrip()


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
TABLES = {".parquet": _parquet, ".arrow": _arrow, ".feather": _arrow}
ENDINGS = ", ".join((*TEXTS, *TABLES))
