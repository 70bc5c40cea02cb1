from __future__ import annotations

import gzip
import json
import sys
from types import SimpleNamespace
from typing import ClassVar

import pytest

from wavetune.data.concierge import concierge
from wavetune.data.corpora import load_corpus
from wavetune.data.settings import DataSettings, load_samples
from wavetune.errors import DataError


def write(path, rows):
    text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8") as file:
        file.write(text)


def pairs(*prompts):
    return [{"prompt": prompt, "response": f"answer {i}"} for i, prompt in enumerate(prompts)]


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
@pytest.mark.parametrize("valid", ["valid", "validation"])
def test_a_folder_gives_its_parts(tmp_path, suffix, valid):
    write(tmp_path / f"train{suffix}", pairs("a", "b"))
    write(tmp_path / f"{valid}{suffix}", pairs("c"))
    write(tmp_path / f"test{suffix}", pairs("d", "é"))
    corpus = load_corpus(str(tmp_path))
    assert [[e.prompt for e in part] for part in (corpus.train, corpus.validation, corpus.test)] == [
        ["a", "b"],
        ["c"],
        ["d", "é"],
    ]
    assert corpus.notes == ()


def test_a_missing_validation_part_is_held_out_by_whole_prompt_and_stated(tmp_path):
    write(tmp_path / "train.jsonl", pairs(*[f"p{i % 50}" for i in range(200)]))
    corpus = load_corpus(str(tmp_path), seed=3)
    held = {e.prompt for e in corpus.validation}
    assert len(held) == 5
    assert len(corpus.validation) == 20
    assert not held & {e.prompt for e in corpus.train}
    assert len(corpus.train) + len(corpus.validation) == 200
    assert corpus.notes == ("no validation part: 20 rows (5 of 50 prompts) of train held out, seed 3",)
    assert load_corpus(str(tmp_path), seed=3) == corpus
    assert {e.prompt for e in load_corpus(str(tmp_path), seed=4).validation} != held


def test_a_single_file_is_a_corpus(tmp_path):
    write(tmp_path / "mine.jsonl", pairs("a", "b", "c"))
    corpus = load_corpus(str(tmp_path / "mine.jsonl"))
    assert (corpus.name, len(corpus.train), len(corpus.validation), corpus.test) == ("mine.jsonl", 2, 1, ())


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{broken", "not JSON"),
        ("[1, 2]", "a JSON list"),
        ('{"a": 1}', "found the columns a; known are"),
        ('{"chosen": 1}', "preference"),
    ],
)
def test_a_malformed_line_is_named_by_file_and_line(tmp_path, line, reason):
    write(tmp_path / "train.jsonl", [*pairs("a"), "", line])
    with pytest.raises(DataError, match=rf"train.jsonl:3: .*{reason}"):
        load_corpus(str(tmp_path))


def test_a_byte_order_mark_is_no_error(tmp_path):
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, pairs("a", "b"))), encoding="utf-8-sig")
    assert len(load_corpus(str(tmp_path)).train) == 1


def test_an_empty_file_is_refused(tmp_path):
    write(tmp_path / "empty.jsonl", [""])
    with pytest.raises(DataError, match=r"empty.jsonl: no rows"):
        load_corpus(str(tmp_path / "empty.jsonl"))


def test_rows_without_an_answer_or_a_text_to_classify_are_dropped_before_rows_are_held_out(tmp_path):
    empty = [{"prompt": f"p{i}", "response": " "} for i in range(30)]
    write(tmp_path / "a.jsonl", [*empty, *pairs("a", "b"), {"text": " ", "label": 1}])
    corpus = load_corpus(str(tmp_path / "a.jsonl"))
    assert (len(corpus.train), len(corpus.validation), corpus.dropped) == (1, 1, 31)
    assert corpus.notes[0] == "31 rows without an answer (or a text to classify) dropped"
    write(tmp_path / "train.jsonl", empty)
    with pytest.raises(DataError, match="none of the 30 rows has an answer; there is nothing to train on"):
        load_corpus(str(tmp_path))


def test_columns_and_turns_that_are_not_used_are_told(tmp_path):
    said = [{"role": role, "content": "x"} for role in ("user", "assistant", "user")]
    write(tmp_path / "a.jsonl", [{"id": 1, "messages": said, "note": None, "lang": "en"}] * 2)
    assert load_corpus(str(tmp_path / "a.jsonl"), hold_out=0).notes[:2] == (
        "columns not used: id, lang",
        "2 dialogues go on after their last answer, which is left out",
    )


def test_columns_of_any_name_are_read_through_a_mapping(tmp_path):
    write(tmp_path / "a.jsonl", [{"frage": f"q{i}", "antwort": "a", "text": "all"} for i in range(3)])
    settings = DataSettings(str(tmp_path / "a.jsonl"), columns={"prompt": "frage", "response": "antwort"})
    corpus = load_samples(settings, 0)
    assert sorted(e.prompt for e in (*corpus.train, *corpus.validation)) == ["q0", "q1", "q2"]


def test_columns_are_named_by_paths_to_what_is_inside(tmp_path):
    row = {"data": {"asked": "q", "said": [{"text": "a"}]}, "meta": '{"lang": "en"}', "id": 7}
    write(tmp_path / "a.jsonl", [row])
    paths = {"prompt": "data.asked", "response": "data.said.0.text", "domain": "meta.lang"}
    (example,) = load_corpus(str(tmp_path / "a.jsonl"), columns=paths, hold_out=0).train
    assert (example.prompt, example.answer, example.domain) == ("q", "a", "en")
    with pytest.raises(DataError, match=r"no column 'data.said.1.text', which world.data.columns.response names"):
        load_corpus(str(tmp_path / "a.jsonl"), columns={**paths, "response": "data.said.1.text"})
    part = load_corpus(str(tmp_path / "a.jsonl"), columns={"text": "data.asked", "domain": "id"}, hold_out=0)
    assert part.train[0].domain == "7"


def test_an_unknown_source_lists_the_possible_ones():
    with pytest.raises(DataError, match="'nowhere' is neither 'restaurants', 'concierge', 'movie-reviews'"):
        load_corpus("nowhere")


def hub(monkeypatch, splits):
    asked = []
    fake = SimpleNamespace(load_dataset=lambda name, config: asked.append((name, config)) or splits)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    return asked


def test_a_hub_id_gives_the_splits_of_the_data_set(monkeypatch):
    asked = hub(monkeypatch, {"train": pairs("a", "b"), "dev": pairs("c"), "other": [{"x": 1}]})
    corpus = load_corpus("owner/name:main")
    assert asked == [("owner/name", "main")]
    assert ([e.prompt for e in corpus.train], [e.prompt for e in corpus.validation]) == (["a", "b"], ["c"])


def test_numbered_classes_of_a_hub_data_set_get_their_names(monkeypatch):
    class Split(list):
        features: ClassVar = {"label": SimpleNamespace(names=["world", "sports"])}

    train = Split({"text": f"t{i}", "label": i % 2} for i in range(4))
    hub(monkeypatch, {"train": train, "test": Split([{"text": "hidden", "label": -1}])})
    corpus = load_corpus("owner/name")
    assert {e.answer for e in (*corpus.train, *corpus.validation)} == {"world", "sports"}
    assert [e.answer for e in corpus.test] == ["-1"]


def test_hub_failures_name_the_data_set(monkeypatch):
    hub(monkeypatch, {"test": pairs("a")})
    with pytest.raises(DataError, match="'owner/name' has no train split; found test"):
        load_corpus("owner/name")
    hub(monkeypatch, {"train": [{"x": 1}]})
    with pytest.raises(DataError, match=r"owner/name train row 0: found the columns x"):
        load_corpus("owner/name")


def test_the_embedded_corpora_are_sources_of_any_size():
    for source in ("restaurants", "concierge"):
        corpus = load_samples(DataSettings(source, train_samples=7, validation_samples=3), seed=2)
        assert (corpus.name, len(corpus.train), len(corpus.validation)) == (source, 7, 3)
    assert load_corpus("concierge", seed=1).train[:20] == concierge(20, 1, 1, seed=1).train
