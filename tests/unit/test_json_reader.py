"""The one reader of JSON: what it reads as it is meant, and what it refuses with its place."""

import bz2
import gzip
import lzma
import os
from collections import deque
from itertools import islice

import pytest

from wavetune import json_reader
from wavetune.errors import JsonError, NotJsonError
from wavetune.json_reader import (
    MOST_LEVELS,
    PACKED,
    parse,
    read_json,
    read_lines,
    require_file,
    require_files,
    value_of,
)

REFUSED = {
    "[" * 200_000: "expecting value|nested more than",
    "[" * 5000 + "]" * 5000: "nested more than 64 levels",
    "[" * (MOST_LEVELS + 1) + "]" * (MOST_LEVELS + 1): "nested more than 64 levels",
    '{"a":' * 100_000 + "1" + "}" * 100_000: "nested more than 64 levels",
    "1" * 5000: "thousands of digits",
    '{"b": [' + "1" * 400 + "]}": r"\$\.b\[0\] is an integer beyond",
    '{"x": "\\ud800"}': r"\$\.x holds half of a surrogate pair",
    '{"\\udfff": 1}': r"a key of \$ holds half of a surrogate pair",
    '{"x": [1, NaN]}': r"\$\.x\[1\] is NaN, not a finite number",
    "1e999": r"\$ is Infinity",
    '{"r": {"a": 1, "a": 2}}': "the key 'a' stands twice",
    '{"a": 1,}': r"not JSON at column \d",
    "": r"not JSON at column 1 \(expecting value\)",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_harms_is_refused_with_its_place(text):
    with pytest.raises(JsonError, match=REFUSED[text]):
        parse(text)


def test_the_deepest_allowed_document_is_read():
    document = parse("[" * MOST_LEVELS + "]" * MOST_LEVELS)
    for _ in range(MOST_LEVELS - 1):
        (document,) = document
    assert document == []


def test_whole_surrogate_pairs_and_other_scripts_are_text():
    assert parse('"\\ud83d\\ude00 \\u0645"') == "😀 م"


def test_files_of_other_programs_may_hold_nan_and_keys_twice():
    assert parse('{"a": 1, "a": 2}', unique=False) == {"a": 2}
    assert parse("Infinity", finite=False) == float("inf")


def test_a_setting_is_json_or_text_but_never_what_is_refused():
    assert value_of("[1, 2]") == [1, 2]
    assert value_of("runs/a [draft") == "runs/a [draft"
    assert value_of("-Infinity") == float("-inf")
    for text in ("1" * 5000, "[" * 5000 + "]" * 5000, "\udcff", '{"a": 1, "a": 2}'):
        with pytest.raises(JsonError):
            value_of(text)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_files_of_windows_editors_are_read(tmp_path, encoding):
    (tmp_path / "a.json").write_text('{"é": 1}', encoding=encoding)
    assert read_json(tmp_path / "a.json") == {"é": 1}


def test_what_is_no_file_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    os.symlink("loop", tmp_path / "loop")
    for name, reason in {"pipe": "pipe or device", ".": "folder", "none": "no such file", "loop": "symbolic"}.items():
        with pytest.raises(JsonError, match=f"cannot read .*: .*{reason}"):
            read_json(tmp_path / name)
        with pytest.raises(JsonError, match=f"cannot read .*: .*{reason}"):
            require_file(tmp_path / name)
    with pytest.raises(JsonError, match="pipe or device"):
        read_json("/dev/zero")
    with pytest.raises(JsonError, match="pipe: it is a pipe or device"):
        require_files(tmp_path)


def test_errors_name_file_and_place(tmp_path):
    (tmp_path / "a.json").write_text('{\n "a": ]')
    with pytest.raises(NotJsonError, match=r"cannot read .*a\.json: not JSON at line 2 column 7"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_bytes(b'{"a": "\xe9"}')
    with pytest.raises(JsonError, match=r"a\.json: it is not UTF-8 text"):
        read_json(tmp_path / "a.json")
    with pytest.raises(JsonError, match="longer than 5 bytes"):
        read_json(tmp_path / "a.json", most_bytes=5)


def test_lines_are_read_one_at_a_time_and_bounded(tmp_path):
    plain, packed = tmp_path / "a.jsonl", tmp_path / "a.jsonl.gz"
    plain.write_bytes(b"\xef\xbb\xbfone\ntwo")
    assert list(read_lines(plain)) == ["one\n", "two"]
    packed.write_bytes(gzip.compress(b"one\n" + bytes(10**6)))
    lines = read_lines(packed, most_bytes=1000)
    assert next(lines) == "one\n"
    with pytest.raises(JsonError, match=r"a\.jsonl\.gz: line 2 is longer than 1000 bytes"):
        next(lines)
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(JsonError, match=r"a\.jsonl\.gz: it is no whole .gz file"):
        list(read_lines(packed))


@pytest.mark.parametrize("ending", PACKED)
def test_a_file_that_unpacks_to_what_no_data_do_is_left_soon(tmp_path, ending, monkeypatch):
    monkeypatch.setattr(json_reader, "MOST_UNPACKED", 10**6)
    path = tmp_path / f"a.jsonl{ending}"
    path.write_bytes(packed(ending, b"one\n" + b"[]            \n" * 10**6))
    lines, text = (
        read_lines(path),
        rf"a\.jsonl{ending}: it holds more than \d+ MB, over 250 times its size, .*unpack it",
    )
    assert next(lines) == "one\n"
    with pytest.raises(JsonError, match=text):
        deque(lines, 0)


def test_a_file_of_empty_lines_is_left_soon(tmp_path, monkeypatch):
    monkeypatch.setattr(json_reader, "MOST_BLANK", 1000)
    path = tmp_path / "a.jsonl"
    path.write_text("one\n" + 999 * "\n" + "two\n" + 1000 * "  \r\n" + "three\n" + 1001 * "\n" + "four")
    lines = read_lines(path)
    assert [line.strip() for line in islice(lines, 2002)] == ["one", *999 * [""], "two", *1000 * [""], "three"]
    with pytest.raises(JsonError, match="the 1,000 lines before line 3003 are empty; take them out"):
        deque(lines, 0)


@pytest.mark.parametrize("ending", PACKED)
def test_a_file_packed_to_a_hundredth_is_read_whole(tmp_path, ending, monkeypatch):
    monkeypatch.setattr(json_reader, "MOST_UNPACKED", 10**4)
    path, lines = (
        tmp_path / f"a.jsonl{ending}",
        [f'{{"prompt": "the same words again and again", "row": {i}}}\n' for i in range(5000)],
    )
    path.write_bytes(packed(ending, "".join(lines).encode()))
    assert list(read_lines(path)) == lines


def packed(ending, content):
    """Such a compressed file's bytes."""
    pack = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}
    return pack[ending](content)


def zstd(content):
    import pyarrow

    return pyarrow.compress(content, codec="zstd", asbytes=True)
