"""Rows that are given as objects, or that a function of somebody's own returns, as files like all others."""

import json
from collections.abc import Iterable, Mapping, Sized
from functools import cache
from pathlib import Path
from typing import Any

from wavetune.data.row_files import table_rows
from wavetune.data.source import is_function
from wavetune.errors import ConfigError, DataError, WavetuneError
from wavetune.foreign import imported
from wavetune.given import folder_of, keep_folder
from wavetune.guarded import line_of, told

MOST_ROWS, MOST_BYTES = 10_000_000, 2 * 10**9  # of a generator


def opened(source: str) -> Path:
    """The folder or file of a source; rows that a function returns are written to one, once in a process.

    Raises: ConfigError where there is no such function or it fails, DataError where it returns no rows.
    """
    return folder_of(_returned(source) if is_function(source) else source)


@cache
def _returned(source: str) -> str:
    function = required(source)
    try:
        return data_name(function())
    except WavetuneError as error:
        raise DataError(f"what {source} returns: {error}") from None
    except (Exception, SystemExit) as error:  # whatever their code raises
        raise ConfigError(f"the data {source!r} failed{line_of(error, source)}: {told(error)}") from error


def required(source: str) -> Any:
    """The function that a source names. Raises ConfigError where it cannot be imported or called."""
    found = imported(source, "the data", "function")
    if not callable(found):
        raise ConfigError(f"the data {source!r} is {type(found).__name__}; name a function that returns rows")
    return found


def data_name(data: Any) -> str:
    """The source that means these rows: a path or id as it is, else the name of what was given.

    Args:
        data: a `datasets.Dataset`, a frame of pandas or polars, a table of Arrow, a list of rows (dicts), lists by
            column, or a mapping of splits to any of these, such as a `DatasetDict`.
    Raises: DataError for what is no rows, or holds what no JSON file could.
    """
    if isinstance(data, str | Path):
        return str(data)
    splits = data if isinstance(data, Mapping) and not _is_columns(data) else {"train": data}
    for name, rows in splits.items():
        if isinstance(rows, str) or not (isinstance(rows, Iterable) or hasattr(rows, "to_pylist")):
            raise DataError(
                f"data {name!r} is {type(rows).__name__}; give a datasets.Dataset, a list of rows, or a dict of splits"
            )

    def write(folder: Path) -> None:
        for name, rows in splits.items():
            known = isinstance(rows, Sized)
            with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
                for number, (place, row) in enumerate(_rows(rows, str(name))):
                    file.write(_line(row, place) + "\n")
                    if not known and (number >= MOST_ROWS or (number % 1000 == 0 and file.tell() > MOST_BYTES)):
                        raise DataError(
                            f"{place}: rows that come one by one may have no end, and are read up to {MOST_ROWS:,} or "
                            f"{MOST_BYTES / 1e9:g} GB of text; give a list, a datasets.Dataset or a file"
                        )

    return keep_folder("data", write)


def _is_columns(data: Mapping[str, Any]) -> bool:
    """Whether a mapping holds a list of cells for each column."""
    lists = [list(cells) for cells in data.values() if isinstance(cells, list | tuple)]
    rows = any(isinstance(cell, Mapping) for cells in lists for cell in cells)
    return len(lists) == len(data) and len({*map(len, lists)}) == 1 and not rows


def _rows(rows: Any, split: str) -> Iterable[tuple[str, Any]]:
    if hasattr(rows, "features"):
        return table_rows(rows, f"data, {split}")
    if isinstance(rows, Mapping):
        rows = [dict(zip(rows, cells, strict=True)) for cells in zip(*rows.values(), strict=True)]
    elif hasattr(rows, "to_pylist"):  # Arrow
        rows = rows.to_pylist()
    elif hasattr(rows, "to_dicts"):  # polars
        rows = rows.to_dicts()
    elif hasattr(rows, "iloc"):  # pandas, where what is missing is NaN
        rows = rows.astype(object).where(rows.notna(), None).to_dict("records")
    return ((f"data, {split} row {number}", row) for number, row in enumerate(rows))


def _line(row: Any, place: str) -> str:
    if not isinstance(row, Mapping):
        raise DataError(f"{place} is {type(row).__name__}; give each row as a dict of its columns")
    try:
        return json.dumps(dict(row), ensure_ascii=False, allow_nan=False, default=_plain)
    except (TypeError, ValueError) as error:
        raise DataError(f"{place} holds what is neither text nor number ({error}); leave the column out") from None


def _plain(value: Any) -> Any:
    """Numbers and arrays of other libraries, and times, as JSON has them."""
    for method in ("tolist", "isoformat"):
        if hasattr(value, method):
            return getattr(value, method)()
    raise TypeError(f"{type(value).__name__} is none")
