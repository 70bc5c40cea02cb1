"""CSV and TSV as spreadsheets and programs write them: the cells of each row, as texts."""

import csv
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from wavetune.errors import DataError
from wavetune.json_reader import packing, read_lines

QUOTES = "a cell that begins with a quotation mark must end with one, and those inside be doubled"


def read_cells(file: Path) -> tuple[str, Iterator[tuple[str, list[str]]]]:
    """The mark between cells, and pairs (place, cells): the names of the columns, some perhaps empty, then each row.

    The mark is a tab in TSV, else what stands behind Excel's `sep=`, or what is most frequent in the names of comma,
    semicolon, tab and bar. Rows without text are left out.

    Raises: JsonError if the file cannot be read; DataError naming file and line, while rows are taken, for names that
        are missing or stand twice, rows of another length and quotation marks without an end.
    """
    lines, before, mark = read_lines(file), 0, ""
    for header in lines:
        if header.strip() and not header.startswith("sep="):
            break
        mark = header.strip("\r\n")[4:] or mark
        before += 1
    else:
        header = ""
    bare = re.sub(r'"[^"]*"', "", header)
    tabs = str(file).lower().removesuffix(packing(file)).endswith(".tsv")
    mark = "\t" if tabs else mark[:1] or max(",;\t|", key=bare.count)
    csv.field_size_limit(2**30)
    return mark, _rows(file, csv.reader(chain([header], lines), delimiter=mark, strict=True), before)


def in_order(name: str) -> tuple[list[tuple[int, str]], str]:
    """What names are sorted by, so that numbers in them count as numbers.

    >>> sorted(["ue10", "ue9", "gateway"], key=in_order)
    ['gateway', 'ue9', 'ue10']
    """
    pieces = [(piece.isdecimal(), piece.lstrip("0")) for piece in re.split(r"(\d+)", name)]
    return [(len(digits) if number else 0, digits) for number, digits in pieces], name


def _rows(file: Path, reader: Any, before: int) -> Iterator[tuple[str, list[str]]]:
    names: list[str] = []
    try:
        for cells in reader:
            place = f"{file}:{before + reader.line_num}"
            if not names:
                names = [name.strip() for name in cells]
                named = [name for name in names if name]
                if not named or len({*named}) < len(named):
                    found = ", ".join(named) or "none"
                    raise DataError(f"{place}: the first line must name every column once, found {found}")
                yield place, names
            elif any(map(str.strip, cells)):
                if reader.dialect.delimiter == "\t" and any("\t" in cell and "\n" in cell for cell in cells):
                    raise DataError(f"{place}: a cell that begins in a line before goes on over tabs to here; {QUOTES}")
                if len(cells) != len(names):
                    raise DataError(f"{place}: {len(cells)} cells for {len(names)} columns; quote cells")
                yield place, cells
    except csv.Error as error:
        raise DataError(f"{file}:{before + reader.line_num}: cannot be read as CSV ({error}); {QUOTES}") from error
