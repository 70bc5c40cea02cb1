"""What becomes of data files as people have them: every kind is read, or refused with what is wrong with it."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os

import datasets
import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest

from helpers.rows import example_of
from wavetune.data.row_files import read_rows
from wavetune.errors import DataError

ROWS = [{"prompt": f"q{i}", "response": f"a{i}"} for i in range(3)]
LINES = [json.dumps(row) for row in ROWS]
ARRAY = json.dumps(ROWS)


def zstd(content):
    return pyarrow.compress(content, codec="zstd", asbytes=True)


def rows_of(file):
    return [row for _, row in read_rows(file)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", "\n".join(LINES)),
        ("a.JSONL", "\n".join(LINES) + "\n"),
        ("a.ndjson", "\n".join(LINES)),
        ("a.json", "\n".join(LINES)),
        ("a.data", "\n".join(LINES)),
        ("a.txt", "\n".join(LINES)),
        ("a.jsonl", "\ufeff" + "\n\n".join(LINES)),
        ("a.jsonl", "\r\n".join(LINES)),
        ("a.jsonl", "\r".join(LINES)),
        ("a.json", ARRAY),
        ("a.json", json.dumps(ROWS, indent=2)),
        ("a.jsonl", ARRAY),
        ("a.json", json.dumps({"version": 1, "data": ROWS})),
        ("a.json", json.dumps({"data": ROWS}, indent=2)),
        ("a.json", json.dumps({key: [row[key] for row in ROWS] for key in ROWS[0]})),
        ("a.csv", "prompt,response\nq0,a0\nq1,a1\n\nq2,a2\n"),
        ("a.csv", "\ufeffprompt;response\r\nq0;a0\r\nq1;a1\r\nq2;a2\r\n"),
        ("a.tsv", "prompt\tresponse\nq0\ta0\nq1\ta1\nq2\ta2"),
        ("a.csv", "prompt|response\nq0|a0\nq1|a1\nq2|a2\n"),
        ("a.jsonl", ",\n".join(LINES)),
        ("a.jsonl", "".join(LINES)),
        ("a.jsonl", LINES[0] + "\n" + LINES[1] + LINES[2]),  # files joined where a last line break was missing
        ("a.json", "\n".join(json.dumps(row, indent=1) for row in ROWS)),
        ("a.json", json.dumps({"version": 1, "records": ROWS})),
        ("a.json", json.dumps({key: {str(i): row[key] for i, row in enumerate(ROWS)} for key in ROWS[0]})),
        ("a.json", json.dumps({str(i): row for i, row in enumerate(ROWS)})),
        ("a.json", json.dumps({f"id-{i}": row for i, row in enumerate(ROWS)})),
        ("a.json", json.dumps({"columns": [*ROWS[0]], "index": [0, 1, 2], "data": [[*row.values()] for row in ROWS]})),
        ("a.csv", "sep=;\nprompt;response\nq0;a0\nq1;a1\nq2;a2\n"),
        ("a.csv", "sep=|\nprompt|response|,,,\nq0|a0|\nq1|a1|\nq2|a2|\n".replace("|,,,", "|").replace("||", "|")),
        ("a.csv", '"prompt";"response";""\nq0;a0;",,,,,"\nq1;a1;\nq2;a2;\n'),
        ("a.csv", "\n\nprompt,response\nq0,a0\nq1,a1\nq2,a2\n"),
        ("a.csv", ",prompt,response,,\n0,q0,a0,,\n1,q1,a1,,\n2,q2,a2,,\n"),  # an index, and cells that were empty
    ],
)
@pytest.mark.parametrize("ending", ["", ".gz", ".bz2", ".XZ", ".zst"])
def test_the_rows_of_a_text_file_are_the_same_however_they_are_written(tmp_path, name, content, ending):
    pack = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".XZ": lzma.compress, ".zst": zstd}[ending]
    (tmp_path / (name + ending)).write_bytes(pack(content.encode()))
    assert rows_of(tmp_path / (name + ending)) == ROWS


DIALOGUE = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


@pytest.mark.parametrize(
    ("content", "count"),
    [
        (f"{json.dumps(DIALOGUE)}\n{json.dumps(DIALOGUE)}\n", 2),
        (json.dumps([DIALOGUE, DIALOGUE]), 2),
        (json.dumps({"messages": [DIALOGUE, DIALOGUE]}), 2),
        (json.dumps({"data": [DIALOGUE, DIALOGUE]}), 2),
        (json.dumps({"messages": DIALOGUE}), 1),
        (json.dumps(DIALOGUE, indent=1), 1),
    ],
)
def test_a_list_of_messages_is_a_row(tmp_path, content, count):
    (tmp_path / "a.json").write_text(content)
    assert rows_of(tmp_path / "a.json") == [{"messages": DIALOGUE}] * count


def test_tables_of_parquet_and_arrow_are_read(tmp_path):
    table = datasets.Dataset.from_list(ROWS)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    table.save_to_disk(str(tmp_path / "saved"))
    (arrow,) = (tmp_path / "saved").glob("*.arrow")
    pyarrow.feather.write_feather(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.feather")  # Arrow as a file
    (tmp_path / "b.arrow").write_bytes((tmp_path / "a.feather").read_bytes())
    assert rows_of(tmp_path / "a.parquet") == rows_of(arrow) == ROWS
    assert rows_of(tmp_path / "a.feather") == rows_of(tmp_path / "b.arrow") == ROWS
    assert next(read_rows(tmp_path / "a.parquet"))[0] == f"{tmp_path / 'a.parquet'} row 0"


def test_a_table_that_names_a_column_twice_is_refused_rather_than_read_by_the_last(tmp_path):
    table = pyarrow.Table.from_arrays([pyarrow.array(["q"])] * 3, names=["prompt", "response", "prompt"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="every column must be named once, found prompt, response, prompt"):
        rows_of(tmp_path / "a.parquet")


def test_numbered_classes_of_a_table_get_their_names(tmp_path):
    classes = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["world", "sports"]))
    table = datasets.Dataset.from_list([{"text": "x", "label": 1}, {"text": "y", "label": -1}], features=classes)
    pyarrow.parquet.write_table(table.data.table, tmp_path / "a.parquet")
    table.save_to_disk(str(tmp_path / "saved"))
    (arrow,) = (tmp_path / "saved").glob("*.arrow")
    for file in (tmp_path / "a.parquet", arrow):
        assert [row["label"] for row in rows_of(file)] == ["sports", -1]


def test_a_quotation_mark_that_is_text_makes_no_cell_of_several_rows(tmp_path):
    (tmp_path / "a.tsv").write_text('prompt\tresponse\n"Loud\tgood\nquiet"\tbad\n')
    with pytest.raises(
        DataError, match=r"a.tsv:3: a cell that begins in a line before goes on over tabs to here; a cell"
    ):
        rows_of(tmp_path / "a.tsv")
    (tmp_path / "a.tsv").write_text('prompt\tresponse\n"two\nlines"\t"a\ttab"\n')
    assert rows_of(tmp_path / "a.tsv") == [{"prompt": "two\nlines", "response": "a\ttab"}]


def test_excel_is_told_the_mark_between_cells_before_the_names_of_columns(tmp_path):
    (tmp_path / "a.csv").write_text("sep=;\nprompt;response;note, of mine, all, long\nq;a;x\n")
    assert rows_of(tmp_path / "a.csv") == [{"prompt": "q", "response": "a", "note, of mine, all, long": "x"}]


@pytest.mark.parametrize("lines", [False, True])
def test_an_article_of_squad_has_a_row_a_question(tmp_path, lines):
    asked = [{"question": f"q{i}", "answers": [{"text": f"a{i}", "answer_start": 0}], "id": str(i)} for i in range(3)]
    paragraphs = [{"context": "c0", "qas": asked[:2]}, {"context": "c1", "qas": asked[2:]}, {"context": "", "qas": []}]
    articles = [{"title": "T", "paragraphs": paragraphs}] * 2
    whole = "\n".join(map(json.dumps, articles)) if lines else json.dumps({"version": "1.1", "data": articles})
    (tmp_path / "train.json").write_text(whole)
    wanted = [{"title": "T", "context": c, **a} for c, a in zip(["c0", "c0", "c1"], asked, strict=True)]
    assert rows_of(tmp_path / "train.json") == wanted * 2
    assert [example_of(row, "").answer for row in wanted] == ["a0", "a1", "a2"]


def test_a_text_file_has_a_row_a_line(tmp_path):
    (tmp_path / "a.txt").write_text("Once upon\n\n  a time\n")
    assert rows_of(tmp_path / "a.txt") == [{"text": "Once upon"}, {"text": "  a time"}]


def test_cells_of_csv_are_text_as_they_stand(tmp_path):
    (tmp_path / "a.csv").write_text('text,label\n"Two lines,\nof ""NA""",007\nNone,\n')
    assert list(read_rows(tmp_path / "a.csv")) == [
        (f"{tmp_path / 'a.csv'}:3", {"text": 'Two lines,\nof "NA"', "label": "007"}),
        (f"{tmp_path / 'a.csv'}:4", {"text": "None", "label": ""}),
    ]


def test_every_script_and_line_separator_survives(tmp_path):
    texts = ["中文 العربية 🦊 हिन्दी", "a\u2028b\u0085c\x1cd"]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": t}, ensure_ascii=False) for t in texts))
    assert [row["text"] for row in rows_of(tmp_path / "a.jsonl")] == texts


PACKED = gzip.compress("\n".join(LINES).encode(), mtime=0)  # the same bytes, and names of tests, in every process


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.jsonl", LINES[0] + "\n{broken\n" + LINES[1], r"a.jsonl:2: not JSON .*every line must hold one JSON object"),
        (
            "a.jsonl",
            LINES[0] + '\n{"prompt": "q1", "resp',
            r"a.jsonl:2: not JSON .*ends inside this line: it was cut off",
        ),
        (
            "a.json",
            json.dumps({"train": ROWS, "test": ROWS}),
            r"a.json:1: it holds the lists train and test; write each",
        ),
        (
            "a.csv",
            "prompt,response\n".encode("utf-16-le"),
            r"a.csv: holds NUL characters, as UTF-16 text .* save it as",
        ),
        ("a.csv", "\na,b\n1,2,3\n", r"a.csv:3: 3 cells for 2 columns"),
        ("a.jsonl", LINES[0] + "\n[1, 2]\n", r"a.jsonl:2: a JSON list; every line must hold one JSON object"),
        ("a.json", f"{ARRAY[:-1]},]", r"a.json: not JSON .*a comma stands behind the last row"),
        ("a.json", ARRAY[:-9], r"a.json: not JSON .*ends before its list does: it was cut off"),
        ("a.json", "[1, 2]", r"a.json row 0: a JSON int; every row must be a JSON object"),
        ("a.jsonl", "Once upon a time\n", r"a.jsonl:1: not JSON"),
        ("a.json", "<html></html>", r"a.json:1: not JSON .*every line must hold one JSON object"),
        ("a.pdf", "%PDF-1.4", r"a.pdf: is not JSON, and its name does not say what it is; known endings are \.jsonl"),
        ("a.jsonl", "\n".join(LINES).encode("utf-16"), r"a.jsonl: is UTF-16 text, not UTF-8: save it as UTF-8"),
        ("a.csv", "prompt,response\nq,café\n".encode("latin-1"), r"a.csv: it is not UTF-8 text; save it as UTF-8"),
        ("a.jsonl", '{"text": "café"}\n'.encode("latin-1"), r"a.jsonl: it is not UTF-8 text; save it as UTF-8"),
        ("a.jsonl.gz", "\n".join(LINES), r"a.jsonl.gz: is no .gz file though it is named so"),
        ("a.jsonl", PACKED, r"a.jsonl: is a .gz file though it is not named so"),
        ("a.jsonl.xz", PACKED, r"a.jsonl.xz: is a .gz file though it is not named so"),
        ("a.jsonl.gz", PACKED[:-20], r"a.jsonl.gz: "),
        ("a.jsonl.bz2", bz2.compress(b"{}")[:-9], r"a.jsonl.bz2: cannot be read \(compressed file ended"),
        ("a.jsonl.bz2", b"BZh9rest", r"a.jsonl.bz2: cannot be read \(invalid data stream"),
        ("a.jsonl.xz", lzma.compress(b"{}")[:-9], r"a.jsonl.xz: cannot be read \(compressed file ended"),
        ("a.jsonl.xz", lzma.compress(b"{}")[:9] + b"rest" * 9, r"a.jsonl.xz: cannot be read \("),
        ("a.jsonl.zst", zstd(b"{}" * 99)[:-5], r"a.jsonl.zst: cannot be read \(truncated compressed stream"),
        ("a.jsonl.zst", b"\x28\xb5\x2f\xfdrest" * 9, r"a.jsonl.zst: cannot be read \("),
        (
            "a.parquet.gz",
            gzip.compress(b"PAR1rest", mtime=0),
            r"a.parquet.gz: a table that is compressed once more is not read",
        ),
        ("a.sqlite", b"SQLite\0rest", r"a.sqlite: is a binary file of a kind that is not read; known endings are"),
        ("a.xlsx", b"PK\x03\x04rest", r"a.xlsx: is a zip archive or a spreadsheet: unpack it, or save it as CSV"),
        ("a.jsonl", '[{"a": 1}]\n[{"a": 2}]\n', r"a.jsonl: not JSON .*its lines are lists; every line must hold one"),
        ("a.csv", ",,\n1,2,3\n", r"a.csv:1: the first line must name every column once, found none"),
        ("a.jsonl", b"PAR1rest", r"a.jsonl: is a Parquet file: give its name the ending .parquet"),
        ("a.parquet", b"PAR1rest", r"a.parquet: cannot be read as Parquet"),
        ("a.arrow", b"ARROW", r"a.arrow: cannot be read as Arrow"),
        ("a.feather", b"ARROW1\0\0rest", r"a.feather: cannot be read as Arrow"),
        ("a.csv", "a,b\n1,2,3\n", r"a.csv:2: 3 cells for 2 columns"),
        ("a.csv", "a,a\n1,2\n", r"a.csv:1: the first line must name every column once, found a, a"),
        ("a.csv", 'a,b\n"1,2\n', r"a.csv:2: cannot be read as CSV"),
        ("a.jsonl", '{"text": "' + "[" * 9 + '", "more": ' + "[" * 5000 + "]" * 5000 + "}", r"a.jsonl:1: .*nested"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_refused_with_what_it_is(tmp_path, name, content, sentence):
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=sentence) as caught:
        rows_of(file)
    assert "\n" not in str(caught.value)


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match="is no regular file"):
        rows_of(tmp_path / "a.jsonl")
