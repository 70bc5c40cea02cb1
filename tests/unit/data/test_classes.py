from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from wavetune.data.batching import collate
from wavetune.data.classes import class_names, frame, look_alikes, tokenise_classes
from wavetune.data.corpora import load_corpus
from wavetune.data.examples import Corpus, Example
from wavetune.data.partition import ByDomain, Dirichlet
from wavetune.data.settings import DataSettings, prepare
from wavetune.data.templates import ClassTemplate
from wavetune.errors import ConfigError, DataError

CLASSES = ("no", "yes")


class FramingTokenizer:
    """One token a character between [CLS] and [SEP], as BERT's tokenizer frames a text."""

    eos_token_id = None

    def __call__(self, text, add_special_tokens=True):
        if not isinstance(text, str):
            return {"input_ids": [self(t, add_special_tokens)["input_ids"] for t in text]}
        ids = [ord(c) for c in text]
        return {"input_ids": [101, *ids, 102] if add_special_tokens else ids}


def tokenise(examples, tokenizer, max_tokens=20, template=ClassTemplate()):  # noqa: B008
    return tokenise_classes(examples, tokenizer, template, max_tokens, CLASSES)


def write(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_rows_are_framed_as_the_tokenizer_does_and_all_tokens_go_through_the_model():
    tokens = tokenise([Example("ab", "yes", "x"), Example("c", "no", "y")], FramingTokenizer())
    assert [tokens.row(i).tolist() for i in range(2)] == [[101, 97, 98, 102], [101, 99, 102]]
    assert tokens.lengths.tolist() == [4, 3]
    assert tokens.labelled.tolist() == [1, 1]
    assert tokens.classes is not None
    assert tokens.classes.tolist() == [1, 0]


def test_a_causal_model_reads_the_class_off_an_end_token(tokenizer, bos_tokenizer):
    assert frame(tokenizer) == ([], [1])
    assert frame(bos_tokenizer) == ([2], [1])
    assert frame(FramingTokenizer()) == ([101], [102])


def test_a_text_that_is_too_long_loses_its_end_but_not_its_frame():
    tokens = tokenise([Example("abcdef", "yes"), Example("ab", "no")], FramingTokenizer(), max_tokens=4)
    assert tokens.row(0).tolist() == [101, 97, 98, 102]
    assert tokens.truncated_prompts == 1


def test_a_pair_of_texts_is_separated_as_the_tokenizer_ends_a_text_and_the_longer_one_is_cut_first(tokenizer):
    pair = Example("abcd", "yes", second="ef")
    assert tokenise([pair], FramingTokenizer()).row(0).tolist() == [101, 97, 98, 99, 100, 102, 101, 102, 102]
    assert tokenise([pair], tokenizer).row(0).tolist() == [97, 98, 99, 100, 10, 101, 102, 1]
    cut = tokenise([pair], FramingTokenizer(), max_tokens=7)
    assert (cut.row(0).tolist(), cut.truncated_prompts) == ([101, 97, 98, 102, 101, 102, 102], 1)


def test_empty_texts_are_dropped_and_counted(tokenizer):
    tokens = tokenise([Example(" ", "yes"), Example("a", "no")], tokenizer)
    assert (len(tokens), tokens.dropped, tokens.example_index.tolist()) == (1, 1, [1])
    with pytest.raises(DataError, match="none of the 1 examples has a text"):
        tokenise([Example("", "yes")], tokenizer)


def test_texts_of_which_the_tokenizer_makes_nothing_are_dropped_and_counted(latin_tokenizer):
    tokens = tokenise([Example("да", "yes"), Example("a", "no")], latin_tokenizer)
    assert (len(tokens), tokens.dropped, tokens.example_index.tolist(), tokens.classes.tolist()) == (1, 1, [1], [0])
    with pytest.raises(DataError, match="makes no tokens of any of the 1 texts"):
        tokenise([Example("да", "yes")], latin_tokenizer)


def test_a_batch_holds_the_class_at_the_last_token_of_each_sample(tokenizer):
    tokens = tokenise([Example("abc", "yes"), Example("d", "no"), Example("ef", "yes")], tokenizer)
    batch = collate(tokens, [np.array([2]), np.array([0, 1])])
    assert batch.lengths.tolist() == [3, 4, 2]
    assert batch.label_index.tolist() == [2, 6, 8]
    assert batch.label_ids.tolist() == [1, 1, 0]
    assert batch.input_ids[batch.label_index].tolist() == [1, 1, 1]
    assert batch.work_by_client(2)["labelled"].tolist() == [1, 2]
    assert batch.work_by_client(2)["tokens"].tolist() == [3, 6]


def test_classes_are_sorted_by_value_or_name():
    def named(*labels):
        return class_names(Corpus("c", tuple(Example("t", label) for label in labels), ()))

    assert named("10", "9", "0", "9") == ("0", "9", "10")
    assert named("b", "a", "2") == ("2", "a", "b")
    assert named("m³", "²", "--1", "2") == ("2", "--1", "m³", "²")  # which int() does not read


def test_labels_that_differ_in_case_alone_are_two_classes_and_told_of(tmp_path, tokenizer):
    labels = ["Neg", "neg", "pos"] * 8
    write(tmp_path / "train.jsonl", [{"text": f"film {i}", "label": label} for i, label in enumerate(labels)])
    data = prepare(DataSettings(str(tmp_path), template=ClassTemplate(), train_samples=None), tokenizer, 2, seed=0)
    assert data.classes == ("Neg", "neg", "pos")
    assert "labels 'Neg' and 'neg' differ in case alone and are two classes" in data.told


def test_one_class_is_refused():
    with pytest.raises(DataError, match=r"every row of train has the label 'yes'.*two classes"):
        class_names(Corpus("c", (Example("t", "yes"),) * 3, ()))


def test_a_label_unseen_in_train_is_named(tokenizer):
    with pytest.raises(DataError, match="label 'perhaps' does not occur in train, whose classes are no, yes"):
        tokenise([Example("a", "perhaps")], tokenizer)


def test_too_few_tokens_are_refused(tokenizer):
    with pytest.raises(ConfigError, match="max_tokens is 3"):
        tokenise([Example("a", "yes")], tokenizer, max_tokens=3)


@pytest.mark.parametrize("text", ["text", "prompt"])
def test_rows_with_text_or_prompt_and_a_label_are_read(tmp_path, text):
    rows = [{text: f"t {i}", "label": i % 2} for i in range(10)]
    corpus = load_corpus(str(write(tmp_path / "rows.jsonl", rows)))
    assert {(e.answer, e.domain) for e in corpus.train} == {("0", "0"), ("1", "1")}


@pytest.mark.parametrize("label", [None, "", 0.5, ["a"]])
def test_a_row_without_a_usable_label_is_named(tmp_path, label):
    file = write(tmp_path / "rows.jsonl", [{"text": "a", "label": 1}, {"text": "b", "label": label}])
    with pytest.raises(DataError, match=r"rows\.jsonl:2: 'label' must be a class"):
        load_corpus(str(file))


def test_rows_without_a_label_are_no_classes(tmp_path):
    corpus = Corpus("mine", (Example("a", "1"), Example("", "text", verbatim=True)), ())
    with pytest.raises(DataError, match=r"mine: 1 of 2 training rows are text without a label.*{text, label}"):
        class_names(corpus)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("classes")
    for name, count in (("train", 120), ("valid", 30)):
        rows = [{"text": f"{name} {i}", "label": i % 3, "domain": f"d{i % 2}"} for i in range(count)]
        write(path / f"{name}.jsonl", rows)
    return str(path)


def test_clients_are_told_apart_by_class_or_by_domain(folder, tokenizer):
    by_label = DataSettings(folder, template=ClassTemplate(), partition=ByDomain())
    data = prepare(by_label, tokenizer, num_clients=3, seed=0)
    assert data.classes == ("0", "1", "2")
    assert [data.domains_of(k) for k in range(3)] == [{"0": 40}, {"1": 40}, {"2": 40}]
    by_domain = DataSettings(folder, template=ClassTemplate(partition_by="domain"), partition=ByDomain())
    data = prepare(by_domain, tokenizer, num_clients=2, seed=0)
    assert [data.domains_of(k) for k in range(2)] == [{"d0": 60}, {"d1": 60}]


def test_dirichlet_over_labels_skews_the_classes_of_the_clients(folder, tokenizer):
    settings = DataSettings(folder, template=ClassTemplate(), partition=Dirichlet(alpha=0.05))
    data = prepare(settings, tokenizer, num_clients=3, seed=0)
    assert data.train.classes is not None
    largest = [max(Counter(data.train.classes[rows].tolist()).values()) / len(rows) for rows in data.rows_by_client]
    assert np.mean(largest) > 0.7  # a third without skew


def test_validation_with_a_class_that_train_lacks_is_refused(tmp_path, tokenizer):
    write(tmp_path / "train.jsonl", [{"text": f"t{i}", "label": i % 2} for i in range(4)])
    write(tmp_path / "valid.jsonl", [{"text": "v", "label": 2}])
    with pytest.raises(DataError, match="label '2' does not occur in train"):
        prepare(DataSettings(str(tmp_path), template=ClassTemplate()), tokenizer, num_clients=1, seed=0)


def test_answers_that_are_no_classes_are_not_listed_whole(tmp_path, tokenizer):
    for part in ("train", "valid"):
        write(tmp_path / f"{part}.jsonl", [{"text": f"t{i}", "label": f"{part} {i} " * 90} for i in range(40)])
    with pytest.raises(DataError, match=r"label 'valid.*whose classes are train 0 .* and 28 more") as refused:
        prepare(DataSettings(str(tmp_path), template=ClassTemplate()), tokenizer, num_clients=1, seed=0)
    assert len(str(refused.value)) < 800


def test_the_only_row_of_a_class_is_trained_on_and_not_held_out(tmp_path, tokenizer):
    rows = [{"text": f"t{i}", "label": i if i < 20 else 20 + i % 2} for i in range(40)]
    file = write(tmp_path / "rows.jsonl", rows)
    data = prepare(DataSettings(str(file), template=ClassTemplate()), tokenizer, num_clients=1, seed=0)
    assert len(data.classes) == 22
    assert len(data.train) + len(data.validation) == 40
    assert any("of the rows held out are the only ones of their labels and are trained on" in n for n in data.notes)
    alone = write(tmp_path / "alone.jsonl", [{"text": f"t{i}", "label": i} for i in range(9)])
    with pytest.raises(DataError, match=r"alone.jsonl: there is nothing to validate on.*validation_fraction=0"):
        prepare(DataSettings(str(alone), template=ClassTemplate()), tokenizer, num_clients=1, seed=0)


def test_validation_rows_of_a_class_that_was_not_drawn_are_left_out_and_told(tmp_path, tokenizer):
    write(tmp_path / "train.jsonl", [{"text": f"t{i}", "label": i // 2} for i in range(40)])
    write(tmp_path / "valid.jsonl", [{"text": f"v{i}", "label": i} for i in range(20)])
    settings = DataSettings(str(tmp_path), template=ClassTemplate(), train_samples=10)
    data = prepare(settings, tokenizer, num_clients=1, seed=0)
    left = len(data.classes)
    assert len(data.validation) == left < 20
    assert f"{20 - left} validation rows of labels that no drawn training row has left out" in data.notes


def test_agnews_is_read(shared):
    if not (shared / "data" / "agnews").is_dir():
        pytest.skip("the data set agnews is not on this machine")
    corpus = load_corpus(str(shared / "data" / "agnews"))
    assert class_names(corpus) == ("0", "1", "2", "3")
    assert len(corpus.test) == 2000


def test_a_class_that_may_mark_rows_without_a_label_is_told():
    (told,) = look_alikes(["-1", "0", "1"])
    assert told.startswith("label '-1' is a class; where it marks rows without a label")
    assert look_alikes(["-1", "1"]) == look_alikes(["-2", "-1", "0"]) == ()
