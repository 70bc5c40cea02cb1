"""Read JSON that anybody may have written: a file, the lines of a file, or a text, all within the same bounds.

Every way refuses, as a JsonError that names the place, what would harm whoever uses the values: nesting deeper than
`MOST_LEVELS`, integers beyond a double's range, halves of surrogate pairs, and unless told otherwise NaN, infinities
and keys that stand twice in an object. A byte order mark, UTF-16 and UTF-32 are read as what they are.
"""

import bz2
import gzip
import io
import json
import lzma
import math
import os
import re
import stat
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from wavetune.errors import JsonError, NotJsonError

MOST_BYTES = 64 * 2**20
LONGEST_RECORDS = 2**30
MOST_LINE_BYTES = 16 * 2**20
MOST_UNPACKED = 64 * 2**20
MOST_UNPACKED_TIMES = 250  # text is packed to a tenth, rows that are all but alike to a hundredth
MOST_LEVELS = 64
MOST_BLANK = 1_000_000  # lines, one after the other
_LINES = re.compile(r"[^\r\n]*(?:\r\n?|\n)|[^\r\n]+$")
_SURROGATE = re.compile("[\ud800-\udfff]")
_MOST_INTEGER = 10**308  # more do not fit a double


def _zstd(file: IO[bytes]) -> IO[bytes]:
    import pyarrow

    return io.BufferedReader(pyarrow.CompressedInputStream(file, "zstd"))


PACKED: dict[str, tuple[bytes, Callable[[IO[bytes]], Any]]] = {
    ".gz": (b"\x1f\x8b", gzip.open),
    ".bz2": (b"BZh", bz2.open),
    ".xz": (b"\xfd7zXZ", lzma.open),
    ".zst": (b"\x28\xb5\x2f\xfd", _zstd),
}
"""Compressed files by the ending of their names: how they begin, and what reads them."""


def read_json(path: Path | str, *, finite: bool = True, unique: bool = True, most_bytes: int = MOST_BYTES) -> Any:
    """The JSON document in a file.

    Args:
        path: a regular file.
        finite: whether NaN and infinities are refused.
        unique: whether a key that stands twice in an object is refused; if not, the last one counts.
        most_bytes: how long the file may be.

    Raises:
        JsonError: the file cannot be read, or what it holds is refused; names file and place.
    """
    with _named(path):
        return parse(_decoded(_read_bytes(Path(path), most_bytes)), finite=finite, unique=unique)


def read_text(path: Path | str, most_bytes: int = MOST_BYTES, errors: str = "strict") -> str:
    """The text of a regular file; `errors` as `bytes.decode` takes it. Raises JsonError naming the file."""
    with _named(path):
        return _decoded(_read_bytes(Path(path), most_bytes), errors)


def read_bytes(path: Path | str, most_bytes: int = MOST_BYTES) -> bytes:
    """What a regular file holds. Raises JsonError naming the file."""
    with _named(path):
        return _read_bytes(Path(path), most_bytes)


def require_file(path: Path) -> Path:
    """The path of a regular file, for a library that would wait for a pipe. Raises JsonError naming it."""
    with _named(path):
        _require_regular(path.stat())
    return path


def require_files(folder: Path) -> None:
    """Raise JsonError for a pipe or device in a folder that a library is to read."""
    for path in folder.iterdir():
        if path.exists() and not path.is_dir():
            require_file(path)


def read_lines(path: Path | str, most_bytes: int = MOST_LINE_BYTES) -> Iterator[str]:
    """The lines of a regular file with UTF-8 text, compressed where its name ends so (`PACKED`), one at a time.

    They keep their ends, which may be a carriage return alone.

    Raises: JsonError naming the file, and the line if one is longer than `most_bytes` or more than `MOST_BLANK` up to
        it are empty.
    """
    number = blank = 0
    with _named(path), _opened(Path(path)) as file:
        stream = opened_packed(path, file)
        while line := stream.readline(most_bytes + 1):
            number += 1
            if len(line) > most_bytes:
                raise JsonError(f"line {number} is longer than {most_bytes} bytes; break it into lines")
            blank = blank + 1 if line.isspace() else 0
            if blank > MOST_BLANK:
                raise JsonError(f"the {MOST_BLANK:,} lines before line {number} are empty; take them out")
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            yield from _LINES.findall(text) if "\r" in text[:-2] else (text,)


def packing(path: Path | str) -> str:
    """The ending of a compressed file's name, in lower case; none where it is not compressed.

    >>> packing("train.JSONL.GZ"), packing("train.jsonl")
    ('.gz', '')
    """
    return next((ending for ending in PACKED if str(path).lower().endswith(ending)), "")


def opened_packed(path: Path | str, file: IO[bytes]) -> IO[bytes]:
    """What a file holds that its name says to be compressed, and any other file itself.

    Reading raises JsonError where it holds more than `MOST_UNPACKED` bytes and `MOST_UNPACKED_TIMES` its own.
    """
    ending = packing(path)
    if not ending:
        return file
    most = max(MOST_UNPACKED, MOST_UNPACKED_TIMES * os.fstat(file.fileno()).st_size)
    return io.BufferedReader(_Unpacked(PACKED[ending][1](file), most), 2**17)


class _Unpacked(io.RawIOBase):
    """What a compressed file holds, up to so many bytes."""

    def __init__(self, stream: IO[bytes], most: int) -> None:
        self._stream, self._most, self._read = stream, most, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        found = self._stream.read(len(buffer))
        self._read += len(found)
        if self._read > self._most:
            raise JsonError(
                f"it holds more than {self._most / 1e6:,.0f} MB, over {MOST_UNPACKED_TIMES} times its size, as no data "
                "do; unpack it if that is meant"
            )
        buffer[: len(found)] = found
        return len(found)


def complete_lines(path: Path | str) -> list[Any]:
    """The documents in a file with one a line; a last line without its line break, left by a killed writer, is not one.

    Raises: JsonError naming file and line.
    """
    text = read_text(path, LONGEST_RECORDS)
    documents: list[Any] = []
    for number, line in enumerate(text[: text.rfind("\n") + 1].split("\n")[:-1], start=1):
        try:
            documents.append(parse(line))
        except JsonError as error:
            raise JsonError(f"line {number}: {error.reason}", path) from None
    return documents


def parse(text: str, *, finite: bool = True, unique: bool = True) -> Any:
    """The JSON document in a text; see `read_json`.

    >>> parse('{"a": [1, 2]}')
    {'a': [1, 2]}
    >>> parse('{"a": [1, NaN]}')
    Traceback (most recent call last):
    wavetune.errors.JsonError: $.a[1] is NaN, not a finite number

    Raises:
        NotJsonError: the text breaks JSON's grammar.
        JsonError: it keeps the grammar and is refused all the same.
    """
    try:
        document = json.loads(text, object_pairs_hook=_object if unique else None)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}" if "\n" in text.strip() else f"column {error.colno}"
        raise NotJsonError(f"not JSON at {place} ({error.msg[:1].lower()}{error.msg[1:]})") from None
    except RecursionError:
        raise _too_deep() from None
    except JsonError:
        raise
    except ValueError:  # Python's limit to the digits of an integer
        raise JsonError("it holds an integer of thousands of digits") from None
    _check(document, finite)
    return document


def value_of(text: str) -> Any:
    """The JSON value of a setting's text, or the text itself if it is no JSON; NaN and infinities pass.

    >>> value_of("1e6"), value_of("int8")
    (1000000.0, 'int8')

    Raises: JsonError if it is JSON and is refused.
    """
    try:
        return parse(text, finite=False)
    except NotJsonError:
        _check(text, finite=False)
        return text


@contextmanager
def _named(path: Path | str) -> Generator[None]:
    """What goes wrong in this block becomes a JsonError that names the file."""
    try:
        yield
    except NotJsonError as error:
        raise NotJsonError(error.reason, path) from None
    except JsonError as error:
        raise JsonError(error.reason, path) from None
    except UnicodeDecodeError as error:
        raise JsonError(f"it is not {error.encoding.upper()} text; save it as UTF-8", path) from None
    except (EOFError, zlib.error, lzma.LZMAError) as error:
        raise JsonError(f"it is no whole {packing(path)} file ({error})", path) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise JsonError(reason[:1].lower() + reason[1:], path) from error


@contextmanager
def _opened(path: Path) -> Generator[IO[bytes]]:
    """A regular file; a folder, pipe or device in its place is refused instead of waited for."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError:  # a NUL, or half of a surrogate pair
        raise JsonError("no file can have such a name") from None
    try:
        _require_regular(os.fstat(descriptor))
    except JsonError:
        os.close(descriptor)
        raise
    with os.fdopen(descriptor, "rb") as file:
        yield file


def _require_regular(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise JsonError(f"it is a {'folder' if stat.S_ISDIR(found.st_mode) else 'pipe or device'}, not a file")


def _read_bytes(path: Path, most_bytes: int) -> bytes:
    with _opened(path) as file:
        found = file.read(most_bytes + 1)
    if len(found) > most_bytes:
        raise JsonError(f"it is longer than {most_bytes} bytes")
    return found


def _decoded(found: bytes, errors: str = "strict") -> str:
    return found.decode(json.detect_encoding(found), errors)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for i, key in enumerate(keys) if key in keys[:i])
        raise JsonError(f"the key {twice!r} stands twice in one object; keep one of them")
    return values


def _check(document: Any, finite: bool) -> None:
    """JsonError at the first value of a document that is refused, named by its path from `$`."""
    containers: list[tuple[str, Any]] = [("", [document])]
    for _ in range(MOST_LEVELS + 1):
        inner: list[tuple[str, Any]] = []
        for path, container in containers:
            entries = container.items() if isinstance(container, dict) else enumerate(container)
            for key, value in entries:
                if isinstance(value, dict | list):
                    inner.append((_path(path, key), value))
                elif flaw := _flaw(value, finite):
                    raise JsonError(f"{_path(path, key)} {flaw}")
                if isinstance(key, str) and (flaw := _flaw(key, finite)):
                    raise JsonError(f"a key of {path} {flaw}")
        if not inner:
            return
        containers = inner
    raise _too_deep()


def _path(parent: str, key: str | int) -> str:
    if not parent:
        return "$"
    return f"{parent}[{key}]" if isinstance(key, int) else f"{parent}.{key}"


def _flaw(value: Any, finite: bool) -> str | None:
    if isinstance(value, str):
        if not value.isascii() and _SURROGATE.search(value):
            return "holds half of a surrogate pair, which is no text; write the whole character"
    elif isinstance(value, float):
        if finite and not math.isfinite(value):
            return f"is {json.dumps(value)}, not a finite number"
    elif not -_MOST_INTEGER < value < _MOST_INTEGER if isinstance(value, int) else False:
        return "is an integer beyond 1e308, which no number here can be"
    return None


def _too_deep() -> JsonError:
    return JsonError(f"it is nested more than {MOST_LEVELS} levels deep")
