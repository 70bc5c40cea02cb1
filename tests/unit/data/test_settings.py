from __future__ import annotations

import json

import numpy as np
import pytest

from helpers.training import folder_of
from wavetune.data.batching import Batching
from wavetune.data.partition import ByDomain, Dirichlet
from wavetune.data.pieces import special_texts
from wavetune.data.plain_tokenizer import PlainTokenizer
from wavetune.data.settings import DataSettings, load_samples, prepare
from wavetune.data.templates import ChatTemplate
from wavetune.errors import ConfigError
from wavetune.models.tiny import byte_tokenizer
from wavetune.part_values import read_part, values_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus")
    for name, count in (("train", 60), ("valid", 30)):
        rows = [{"prompt": f"{name} {i}", "response": f"answer {i}", "domain": f"d{i % 3}"} for i in range(count)]
        (path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def test_samples_are_drawn_at_random_and_repeatably(folder):
    settings = DataSettings(folder, train_samples=20, validation_samples=10)
    corpus = load_samples(settings, seed=0)
    assert (len(corpus.train), len(corpus.validation)) == (20, 10)
    assert load_samples(settings, seed=0) == corpus
    assert load_samples(settings, seed=1).train != corpus.train
    assert corpus.train != load_samples(DataSettings(folder), seed=0).train[:20]


def test_more_training_samples_than_rows_are_refused_and_validation_is_capped(folder):
    assert len(load_samples(DataSettings(folder, validation_samples=1000), seed=0).validation) == 30
    with pytest.raises(ConfigError, match=r"train_samples is 61 and .* has 60 training rows"):
        load_samples(DataSettings(folder, train_samples=61), seed=0)


def test_the_embedded_corpus_has_as_many_rows_as_wanted():
    assert len(load_samples(DataSettings(train_samples=8100), seed=0).train) == 8100
    assert len(load_samples(DataSettings(train_samples=10), seed=0).train) == 10


def test_clients_share_the_rows_that_were_tokenised(folder, tokenizer):
    data = prepare(DataSettings(folder, partition=ByDomain()), tokenizer, num_clients=3, seed=0)
    assert sorted(np.concatenate(data.rows_by_client)) == list(range(60))
    assert [data.domains_of(k) for k in range(3)] == [{"d0": 20}, {"d1": 20}, {"d2": 20}]
    assert len(data.validation) == 30


def test_every_client_gets_the_minimum(folder, tokenizer):
    settings = DataSettings(folder, partition=Dirichlet(alpha=1e-6), minimum_samples=7)
    assert min(map(len, prepare(settings, tokenizer, num_clients=6, seed=0).rows_by_client)) == 7


def test_settings_survive_json_and_pick_the_alternative_by_kind():
    settings = DataSettings(partition=Dirichlet(alpha=0.1), template=ChatTemplate(), batching=Batching(4, "client"))
    assert read_part(DataSettings, values_of(settings)) == settings
    assert read_part(DataSettings, {"partition": {"kind": "by_domain"}}).partition == ByDomain()


@pytest.mark.parametrize(
    "wrong", [{"max_tokens": 3}, {"train_samples": 0}, {"partition": {"kind": "dirichlet", "alpha": -1}}]
)
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError):
        read_part(DataSettings, wrong)


def test_texts_that_the_tokenizer_takes_for_special_tokens_are_told(tmp_path):
    rows = [{"prompt": f"q{i}", "response": "a</s>b" if i % 2 else "a"} for i in range(6)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = DataSettings(str(tmp_path), validation_fraction=0)
    notes = prepare(settings, byte_tokenizer(), num_clients=1, seed=0).notes
    assert "3 training rows hold </s> in their texts, read as special tokens" in notes
    assert (
        special_texts(PlainTokenizer(folder_of("tiny"))) == special_texts(byte_tokenizer()) == ["</s>", "<pad>", "<s>"]
    )
