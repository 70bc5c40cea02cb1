"""Measured or simulated channels as files: one value per round and client, and where there are any per subchannel.

Tables (CSV, TSV, Parquet) have a row per value, or several values a row; NPZ, NPY and MAT files hold arrays
`[rounds, clients]` or `[rounds, clients, subchannels]`. Shape letters: T rounds, K clients, M subchannels.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavetune.array_files import ENDINGS, MOST_VALUES, read_arrays
from wavetune.csv_files import in_order, read_cells
from wavetune.errors import DataError, JsonError, one_line
from wavetune.units import Array, Ints

Values = NDArray[Any]  # real, or complex where they are amplitudes
ByLink = dict[tuple[str, str], Values]
Bad = Callable[[Values], tuple[NDArray[np.bool_], str]]  # which values are refused, and why

MOST_BYTES = 2**29
MOST_CELLS = 2**23  # of a table, which takes longer to read than arrays
BANDS, DIRECTIONS = ("main", "fed"), ("uplink", "downlink")
_TABLES = (".csv", ".tsv", ".parquet")
_WHEN = ("round", "time_s", "time")
KEYS = (*_WHEN, "client", "subchannel", "band", "direction")
_NUMBERED = re.compile(r"(client|subchannel)[ _-]?([0-9]{1,6})")
_COMMA = re.compile(r"([-+]?\d+),(\d+(?:[eE][-+]?\d+)?)")
_THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2},\d{3}")
_FIELD = "world.scenario.channel"
_SMALLER = "cut it into shorter ones, or save arrays in an NPZ file"


@dataclass(frozen=True, eq=False)
class Trace:
    """What files hold, `[T, K, M]` or `[T, K, 1]` where all subchannels are alike, by (band, direction).

    An empty band or direction stands for both.
    """

    values: Mapping[tuple[str, str], Values]
    sha256: str

    def of(self, band: str, direction: str) -> Values | None:
        """The values of a band and direction; None where there are none of them."""
        found = (self.values.get(key) for key in ((band, direction), (band, ""), ("", direction), ("", "")))
        return next((values for values in found if values is not None), None)


@dataclass(frozen=True)
class Reading:
    """How files are read: what arrays are called, where a table has what, and how long a round is.

    `column` is the column of a table, or the array of a file, with the values (None: that called as the `quantity`, the
    only one, or those numbered `client_0` or `subchannel_0` and on). `columns` pairs keys of a table, or the quantity,
    with the columns that hold them. Where rows have a time, the values of `round_s` seconds are averaged (None: each
    time is a round). `bad` says which values are refused, and why; `linear` makes others of them before they are
    averaged, where their mean would not be that of what they stand for.
    """

    quantity: str
    bad: Bad
    linear: Callable[[NDArray[Any]], Array] | None = None
    column: str | None = None
    columns: tuple[tuple[str, str], ...] = ()
    round_s: float | None = None


def read_trace(files: Sequence[str], reading: Reading) -> Trace:
    """The trace in one file of all clients, or in one file a client.

    Args:
        files: one, or each client's own in the order of the clients.
        reading: how they are read.

    Raises: DataError naming file, row and column of what is refused.
    """
    return _read(tuple((file, *_stamp(Path(file))) for file in files), reading)


@lru_cache(maxsize=4)
def _read(stamps: tuple[tuple[str, int, int], ...], reading: Reading) -> Trace:
    read, digest = list[ByLink](), hashlib.sha256()
    for file, _, _ in stamps:
        read.append(_values(Path(file), reading))
        with open(file, "rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return Trace(read[0] if len(read) == 1 else _joined([s[0] for s in stamps], read), digest.hexdigest())


def _stamp(file: Path) -> tuple[int, int]:
    """When a file was written and its size, by which a change is seen. Raises DataError if it cannot be a trace."""
    if not file.is_file():
        raise DataError(f"{file}: there is no such file; give the path of a trace")
    stat = file.stat()
    if stat.st_size > MOST_BYTES:
        raise DataError(f"{file}: has {stat.st_size} bytes, and a trace at most {MOST_BYTES}; cut it into shorter ones")
    return stat.st_mtime_ns, stat.st_size


def _joined(files: Sequence[str], read: Sequence[ByLink]) -> ByLink:
    """One file a client, all with what the first has, as long as the shortest."""
    found: ByLink = {}
    for key, first in read[0].items():
        for file, values in zip(files, read, strict=True):
            if values.keys() != read[0].keys() or values[key].shape[1:] != (1, first.shape[2]):
                raise DataError(
                    f"{file}: is not of one client with the bands and subchannels that {files[0]} has; give one file "
                    "of all clients, or for each client one like the others"
                )
        rounds = min(len(values[key]) for values in read)
        found[key] = np.concatenate([values[key][:rounds] for values in read], axis=1)
    return found


def _values(file: Path, reading: Reading) -> ByLink:
    kind = file.suffix.lower()
    if kind in ENDINGS:
        for name, given in (("columns", reading.columns), ("round_s", reading.round_s)):
            if given:
                raise DataError(f"{file}: holds arrays, of which {_FIELD}.{name} says nothing; leave it out")
        return _of_arrays(file, reading.column or reading.quantity, reading)
    if kind not in _TABLES:
        known = ", ".join((*_TABLES, *ENDINGS))
        raise DataError(f"{file}: its name does not say what it is; known endings are {known}")
    try:
        table = _parquet(file) if kind == ".parquet" else _separated(file)
    except (OSError, UnicodeDecodeError, JsonError) as error:
        raise DataError(f"{file}: cannot be read ({getattr(error, 'reason', error)}); write it again") from None
    return table.named(reading).trace(reading)


def _of_arrays(file: Path, name: str, reading: Reading) -> ByLink:
    """Arrays by band and direction, called NAME, NAME_main, NAME_downlink or NAME_fed_uplink."""
    keys = {
        "_".join(filter(None, (name, band, way))): (band, way) for band in ("", *BANDS) for way in ("", *DIRECTIONS)
    }
    arrays = read_arrays(file, name)
    found = {keys[one]: _checked(file, one, values, reading) for one, values in arrays.items() if one in keys}
    if not found:
        raise DataError(
            f"{file}: has no array {name!r}, only {', '.join(sorted(arrays)) or 'none'}; name it in {_FIELD}.column"
        )
    return found


def _checked(file: Path, name: str, values: Values, reading: Reading) -> Values:
    if values.dtype.kind not in "fiuc":
        raise DataError(f"{file}: {name} is of type {values.dtype}; it must hold numbers")
    if values.ndim not in (2, 3) or 0 in values.shape:
        raise DataError(
            f"{file}: {name} has the shape {list(values.shape)}; it must be [rounds, clients] or [rounds, clients, "
            "subchannels]"
        )
    values = values.astype(np.complex128 if values.dtype.kind == "c" else np.float64)
    wrong, why = reading.bad(values)
    if wrong.any():
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise DataError(f"{file}: {name}{list(index)} is {values[index]:g}; {why}")
    values = values if reading.linear is None else reading.linear(values)
    return values if values.ndim == 3 else values[:, :, None]


@dataclass(frozen=True)
class _Table:
    """Columns of a table by name, and what each row is called in a refusal. A row may hold several of N values."""

    file: Path
    columns: Mapping[str, Sequence[Any]]
    places: Sequence[str]

    def named(self, reading: Reading) -> _Table:
        """The table with the columns that a mapping names under the names that are known."""
        found, used = dict[str, Sequence[Any]](), set[str]()
        for key, name in reading.columns:
            own = name if name in self.columns else name.lower()
            if own not in self.columns:
                raise DataError(
                    f"{self.file}: there is no column {name!r}, which {_FIELD}.columns.{key} names; "
                    f"there are {', '.join(self.columns)}"
                )
            used.add(own)
            found[key] = self.columns[own]
        return replace(self, columns={n: cells for n, cells in self.columns.items() if n not in used} | found)

    def trace(self, reading: Reading) -> ByLink:
        """The values by band and direction."""
        own = reading.quantity if reading.quantity in dict(reading.columns) else None
        names, across = self._value_columns(reading.column or own)
        round_s = reading.round_s
        if round_s is not None and not {"time", "time_s"} & self.columns.keys():
            raise DataError(
                f"{self.file}: has no column time or time_s whose values {_FIELD}.round_s could average; leave it out, "
                f"or name the column in {_FIELD}.columns"
            )
        value_RC = np.stack([self._numbers(name) for name in names], axis=1)
        wrong, why = reading.bad(value_RC)
        if wrong.any():
            row, at = (int(i) for i in np.argwhere(wrong)[0])
            raise DataError(f"{self.places[row]}: {names[at]} is {value_RC[row, at]:g}; {why}")
        value_RC = value_RC if reading.linear is None else reading.linear(value_RC)
        rows, width = value_RC.shape
        labels = {name: self._labels(name) for name in ("client", "subchannel")}
        index = {name: np.repeat(own, width) for name, (own, _) in labels.items()}
        if across:
            index[across] = np.tile(np.arange(width), rows)
            labels[across] = (index[across], [name[len(across) :].strip(" _-") for name in names])
        round_R, moment_R, first = self._rounds(round_s)
        entry = (*(np.repeat(own, width) for own in (np.arange(rows), moment_R, round_R)), *index.values())
        said = (range(first, first + 1 + int(round_R.max())), *(own for _, own in labels.values()))
        found: ByLink = {}
        for key, in_link in self._links():
            here = np.repeat(in_link, width)
            found[key] = self._filled(
                value_RC.reshape(-1)[here], [one[here] for one in entry], said, moment_R is not round_R
            )
        return found

    def _value_columns(self, column: str | None) -> tuple[list[str], str | None]:
        """Columns with values, and what they are numbered by where there are several."""
        left = [name for name in self.columns if name not in KEYS]
        if column is not None:
            if column not in left:
                raise DataError(f"{self.file}: has no column {column!r}, only {', '.join(left)}; see {_FIELD}.column")
            return [column], None
        numbered = {(m[1], int(m[2])): name for name in left if (m := _NUMBERED.fullmatch(name))}
        across = {what for what, _ in numbered}
        if len(left) == len(numbered) > 0 and len(across) == 1 and not across & self.columns.keys():
            numbers = sorted(number for _, number in numbered)
            if numbers[0] > 1 or numbers != list(range(numbers[0], numbers[0] + len(numbers))):
                raise DataError(f"{self.file}: columns {', '.join(left)} must be numbered without a gap from 0 or 1")
            return [numbered[key] for key in sorted(numbered)], across.pop()
        if len(left) != 1:
            said = ", ".join(left) or "none"
            raise DataError(
                f"{self.file}: one column must hold the values beside {', '.join(KEYS)}, and there are {said}; name "
                f"it in {_FIELD}.column, others in {_FIELD}.columns, or number them client_0, client_1 or "
                "subchannel_0, subchannel_1"
            )
        return left, None

    def _numbers(self, name: str) -> Array:
        values = np.empty(len(self.places))
        for row, cell in enumerate(self.columns[name]):
            try:
                values[row] = float(cell)
            except (TypeError, ValueError):
                said = "empty" if cell in (None, "") else repr(cell)
                raise DataError(f"{self.places[row]}: {name} is {said}; it must be a number") from None
        return values

    def _labels(self, name: str) -> tuple[Ints, Sequence[object]]:
        """Which client or subchannel each row is of, and what those are called.

        They are whole numbers without a gap from 0 or 1, or any texts, sorted with numbers in them as numbers.
        """
        if name not in self.columns:
            return np.zeros(len(self.places), np.int64), (0,)
        cells = [re.sub(r"(?<=\d)\.0+$", "", str(cell).strip()) for cell in self.columns[name]]
        if "" in cells or "None" in cells:
            row = cells.index("") if "" in cells else cells.index("None")
            raise DataError(f"{self.places[row]}: {name} is empty; say which one it is")
        if not all(re.fullmatch("[0-9]{1,9}", cell) for cell in cells):
            for place, cell in zip(self.places, cells, strict=True):
                if re.fullmatch(r"-\d+|[-+]?\d*\.\d+", cell):
                    raise DataError(
                        f"{place}: {name} is {cell}; number them in whole numbers from 0 or 1, or give names"
                    )
            if name == "subchannel":
                raise DataError(f"{self.file}: subchannel must hold whole numbers, counted from 0 or 1")
            called = sorted({*cells}, key=in_order)
            at = {cell: index for index, cell in enumerate(called)}
            return np.array([at[cell] for cell in cells], np.int64), called
        number_R = np.array(cells, np.int64)
        known = np.unique(number_R)
        gaps = np.flatnonzero(np.diff(known) > 1)
        if known[0] > 1 or len(gaps):
            missing = int(known[gaps[0]]) + 1 if len(gaps) else 0
            raise DataError(f"{self.file}: {name} {missing} is missing; number them without a gap from 0 or 1")
        return number_R - known[0], known.tolist()

    def _rounds(self, round_s: float | None) -> tuple[Ints, Ints, int]:
        """The round and the moment of each row, and what the first round is called.

        A round has a number, a time, or the place of a row. It is a moment, but where times are averaged over rounds.
        """
        when = [name for name in _WHEN if name in self.columns]
        if len(when) > 1:
            raise DataError(f"{self.file}: has a column {when[0]} and a column {when[1]}; leave one out")
        if when and when != ["round"]:
            time_R = self._times(when[0])
            moment_R = np.unique(time_R, return_inverse=True)[1].astype(np.int64)
            if round_s is None:
                return moment_R, moment_R, 0
            with np.errstate(over="ignore"):
                after_R = (time_R - time_R.min()) / round_s * (1 + 1e-12)
            return np.floor(np.minimum(after_R, MOST_VALUES)).astype(np.int64), moment_R, 0
        if "round" in self.columns:
            round_R = self._numbers("round")
            whole = (round_R == np.round(round_R)) & (np.abs(round_R) < MOST_VALUES)
            if not whole.all():
                row = int(np.flatnonzero(~whole)[0])
                raise DataError(f"{self.places[row]}: round is {round_R[row]:g}; it must be a whole number")
            first = int(round_R.min())
            round_R = round_R.astype(np.int64) - first
            return round_R, round_R, first
        if any(name in self.columns for name in KEYS):
            raise DataError(
                f"{self.file}: has no column {', '.join(_WHEN)}; say when each value was, or which column does in "
                f"{_FIELD}.columns"
            )
        row_R = np.arange(len(self.places))
        return row_R, row_R, 0

    def _times(self, name: str) -> Array:
        """Seconds of each row: numbers in `time_s`, ISO 8601 in `time`, which is in UTC where it names no zone."""
        if name == "time_s":
            time_R = self._numbers(name)
            if not np.isfinite(time_R).all():
                row = int(np.flatnonzero(~np.isfinite(time_R))[0])
                raise DataError(f"{self.places[row]}: time_s is {time_R[row]:g}; it must be a finite number")
            return time_R
        time_R = np.empty(len(self.places))
        for row, cell in enumerate(self.columns[name]):
            try:
                found = cell if isinstance(cell, datetime) else datetime.fromisoformat(str(cell).strip())
            except ValueError:
                raise DataError(
                    f"{self.places[row]}: time is {str(cell)[:40]!r}; write 2026-01-31T12:00:00, or seconds in a "
                    f"column time_s (of another name: {_FIELD}.columns.time_s)"
                ) from None
            time_R[row] = (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
        return time_R

    def _links(self) -> Iterator[tuple[tuple[str, str], NDArray[np.bool_]]]:
        """Which rows are of each band and direction."""
        words = [self._words("band", BANDS), self._words("direction", DIRECTIONS)]
        pairs = list(zip(*words, strict=True))
        for key in dict.fromkeys(pairs):
            yield key, np.array([pair == key for pair in pairs])

    def _words(self, name: str, allowed: Sequence[str]) -> list[str]:
        if name not in self.columns:
            return [""] * len(self.places)
        cells = [str(cell).strip() for cell in self.columns[name]]
        for row, cell in enumerate(cells):
            if cell not in allowed:
                raise DataError(f"{self.places[row]}: {name} is {cell!r}; it must be {' or '.join(allowed)}")
        return cells

    def _filled(self, value_N: Array, entry: Sequence[Ints], said: Sequence[Sequence[object]], averaged: bool) -> Array:
        """The values `[T, K, M]`, of each moment one, averaged where a round has several.

        Args:
            value_N: the values.
            entry: of each its row, moment, round, client and subchannel, `[N]` each.
            said: what rounds, clients and subchannels are called.
            averaged: whether rounds have several moments; they then end where not every client has any.

        Raises: DataError where one is there twice, or a round has none.
        """
        row_N, moment_N, *index = entry
        rounds, clients, subchannels = map(len, said)
        if averaged:
            reach = np.zeros(clients, np.int64)
            np.maximum.at(reach, index[1], index[0] + 1)
            rounds = int(reach.min())
        full = (rounds, clients, subchannels)
        if np.prod(full, dtype=np.float64) > MOST_VALUES:
            mend = f"check the times and {_FIELD}.round_s" if averaged else "number rounds one after the other"
            raise DataError(f"{self.file}: rounds up to {rounds} make {full}, more than {MOST_VALUES} values; {mend}")
        moments = (1 + int(moment_N.max()), clients, subchannels)
        self._require_once(row_N, np.ravel_multi_index([moment_N, *index[1:]], moments), averaged)
        inside = index[0] < rounds
        flat_N = np.ravel_multi_index([one[inside] for one in index], full)
        count = np.bincount(flat_N, minlength=int(np.prod(full)))
        if (count == 0).any():
            t, k, m = (int(i) for i in np.unravel_index(int(np.flatnonzero(count == 0)[0]), full))
            of = f" of subchannel {said[2][m]}" if subchannels > 1 else ""
            when = f"longer rounds in {_FIELD}.round_s, or " if averaged else ""
            who = f"client {said[1][k]}{of} in round {said[0][t]}"
            raise DataError(f"{self.file}: has a gap, no value of {who}; give {when}every value")
        return (np.bincount(flat_N, value_N[inside], len(count)) / count).reshape(full)

    def _require_once(self, row_N: Ints, flat_N: Ints, averaged: bool) -> None:
        order_N = np.argsort(flat_N, kind="stable")
        if len(again := np.flatnonzero(np.diff(flat_N[order_N]) == 0)):
            first, second = (self.places[row] for row in row_N[order_N[again[0] : again[0] + 2]])
            mend = ", or give times finer, as several of one moment are no mean" if averaged else ""
            raise DataError(f"{second}: says again what stands in {first}; keep one{mend}")


def _separated(file: Path) -> _Table:
    """CSV or TSV: a line with the names of the columns, then a line for each row."""
    mark, found = read_cells(file)
    first, names = next(found)
    if all(_is_number(name) for name in names if name):
        raise DataError(f"{first}: the first line must name the columns, such as round, client, gain")
    rows, places = list[list[str]](), list[str]()
    for place, cells in found:
        rows.append(cells if mark == "," else [_with_point(cell) for cell in cells])
        places.append(place)
        if len(rows) * len(names) > MOST_CELLS:
            raise DataError(f"{file}: holds more than {MOST_CELLS} cells; {_SMALLER}")
    columns = zip(names, zip(*rows, strict=True), strict=True) if rows else ()
    return _table(file, {name: cells for name, cells in columns if name}, places)


def _with_point(cell: str) -> str:
    """A cell with a decimal point where it has a comma; one that may stand before thousands is left as it is.

    >>> _with_point("8,1e-11"), _with_point("0,125"), _with_point("1,250")
    ('8.1e-11', '0.125', '1,250')
    """
    found = _COMMA.fullmatch(cell.strip()) if "," in cell else None
    return f"{found[1]}.{found[2]}" if found and not _THOUSANDS.fullmatch(cell.strip()) else cell


def _parquet(file: Path) -> _Table:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as parquet:
            size = parquet.metadata
            if size.num_rows * size.num_columns > MOST_CELLS:
                raise DataError(f"{file}: holds more than {MOST_CELLS} cells; {_SMALLER}")
            columns = {name.strip(): column for name, column in parquet.read().to_pydict().items()}
    except pyarrow.ArrowException as error:
        raise DataError(f"{file}: cannot be read as Parquet ({one_line(error, 120)}); write it again") from None
    return _table(file, columns, [f"{file} row {row}" for row in range(size.num_rows)])


def _table(file: Path, columns: Mapping[str, Sequence[Any]], places: Sequence[str]) -> _Table:
    if not places:
        raise DataError(f"{file}: has no rows; give at least one")
    columns = {name: cells for name, cells in columns.items() if name != "__index_level_0__"}  # which pandas adds
    known = {n: n.lower() if n.lower() in KEYS or _NUMBERED.fullmatch(n.lower()) else n for n in columns}
    return _Table(file, {known[name]: cells for name, cells in columns.items()}, places)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
