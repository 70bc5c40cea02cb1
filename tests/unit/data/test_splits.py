from __future__ import annotations

import json

import datasets
import pytest

from wavetune.data.corpora import load_corpus
from wavetune.data.splits import split_names, splits_of
from wavetune.errors import DataError


def fill(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        rows = [{"prompt": f"{name} {i}", "response": "a"} for i in range(3)]
        (folder / name).write_text("\n".join(map(json.dumps, rows)))


@pytest.mark.parametrize("word", ["validation", "valid", "val", "dev", "eval"])
def test_common_names_of_a_validation_file_are_found(tmp_path, word):
    fill(tmp_path, "train.jsonl", f"{word}.jsonl", "test.jsonl")
    corpus = load_corpus(str(tmp_path))
    assert (len(corpus.train), corpus.validation[0].prompt, corpus.test[0].prompt) == (
        3,
        f"{word}.jsonl 0",
        "test.jsonl 0",
    )


@pytest.mark.parametrize(
    ("names", "train"),
    [
        (["train.json"], ["train.json"]),
        (["Train.jsonl"], ["Train.jsonl"]),
        (["training.json", "README.md"], ["training.json"]),
        (["my_train.json", "my_test.json"], ["my_train.json"]),
        (["train.jsonl", "old_train.jsonl"], ["train.jsonl"]),
        (["alpaca_data.json", "dataset_infos.json", ".hidden.json"], ["alpaca_data.json"]),
        (["part-10.jsonl", "part-9.jsonl"], ["part-9.jsonl", "part-10.jsonl"]),
        (["1²10.jsonl", "1²9.jsonl"], ["1²9.jsonl", "1²10.jsonl"]),
        (["part-00000-1a-c000.snappy.json", "part-00001-2b-c000.json"], 2 * [None]),
        (["0001.jsonl", "0000.jsonl"], ["0000.jsonl", "0001.jsonl"]),
        (["train-00000-of-00002.json", "train-00001-of-00002.json"], 2 * [None]),
        (["data/train-00000-of-00001.json", "data/test-00000-of-00001.json"], ["train-00000-of-00001.json"]),
        (["train/a.json", "train/b.json", "validation/a.json"], ["a.json", "b.json"]),
    ],
)
def test_the_training_files_of_a_folder_are_found(tmp_path, names, train):
    fill(tmp_path, *names)
    found = [file.name for file in splits_of(tmp_path).train]
    assert found == (train if train[0] else names)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["train.jsonl", "train.json"], r"train.json and train.jsonl could each be the train part; keep one"),
        (["train.jsonl", "train.jsonl.gz"], r"train.jsonl and train.jsonl.gz could each be the train part"),
        (["train.jsonl", "val.jsonl", "valid.jsonl"], r"val.jsonl and valid.jsonl could each be the validation part"),
        (["a_train.jsonl", "b_train.jsonl"], r"a_train.jsonl and b_train.jsonl could each be the train part"),
        (["a.jsonl", "b.jsonl"], r"no training file: name it train .*found a.jsonl, b.jsonl"),
        (["test.jsonl"], r"no training file: name it train .*found test.jsonl"),
        (["notes.md"], r"no training file: name it train .*found notes.md"),
        ([], r"no training file: .*found nothing"),
    ],
)
def test_a_folder_whose_training_file_is_not_clear_is_refused(tmp_path, names, sentence):
    fill(tmp_path, *names)
    with pytest.raises(DataError, match=sentence):
        splits_of(tmp_path)


def test_the_name_of_the_folder_itself_says_nothing(tmp_path):
    folder = tmp_path / "val"
    folder.mkdir()
    fill(folder, "train.jsonl", "test.jsonl")
    splits = splits_of(folder)
    assert [[file.name for file in part] for part in (splits.train, splits.validation, splits.test)] == [
        ["train.jsonl"],
        [],
        ["test.jsonl"],
    ]


def test_files_that_are_not_read_are_told(tmp_path):
    fill(tmp_path, "train.jsonl", "valid.jsonl", "extra.jsonl")
    assert load_corpus(str(tmp_path)).notes == ("not read: extra.jsonl",)


def test_rows_of_clients_own_files_are_domains(tmp_path):
    fill(tmp_path, "client-0.jsonl", "client-1.jsonl")
    corpus = load_corpus(str(tmp_path), hold_out=0)
    assert [example.domain for example in corpus.train] == 3 * ["client-0"] + 3 * ["client-1"]
    assert corpus.notes[0] == "read client-0.jsonl, client-1.jsonl"


def test_a_saved_data_set_is_read_with_its_splits(tmp_path):
    rows = {part: datasets.Dataset.from_list([{"question": part, "answer": "a"}] * 2) for part in ("train", "test")}
    datasets.DatasetDict(rows).save_to_disk(str(tmp_path / "both"))
    rows["train"].save_to_disk(str(tmp_path / "one"))
    both, one = (load_corpus(str(tmp_path / name), hold_out=0) for name in ("both", "one"))
    assert ([e.prompt for e in both.train], [e.prompt for e in both.test]) == (2 * ["train"], 2 * ["test"])
    assert (one.name, one.train) == ("one", both.train)
    next((tmp_path / "one").glob("*.arrow")).write_bytes(b"broken")
    with pytest.raises(DataError, match=r"one: cannot read the data set saved there"):
        load_corpus(str(tmp_path / "one"))


def test_splits_that_could_each_be_train_are_refused():
    assert split_names(["train", "dev", "extra"], "x") == {"train": "train", "validation": "dev"}
    assert split_names(["train_sft", "test_sft"], "x") == {"train": "train_sft", "test": "test_sft"}
    with pytest.raises(DataError, match="'o/n': train_sft and train_gen could each be the train part"):
        split_names(["train_sft", "train_gen"], "'o/n'")
