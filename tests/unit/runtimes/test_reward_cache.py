"""Reward models that are not trained again where a run had them trained from the same pairs before."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from wavetune.errors import RunFolderError
from wavetune.federation.rewards import EmbeddedReward, RewardTraining
from wavetune.models.reward import LOADED
from wavetune.runtimes import reward_cache
from wavetune.runtimes.reward_training import Training
from wavetune.runtimes.rewards import RewardFolder

PART = EmbeddedReward(training=RewardTraining(model="tiny-bert", steps=2, evaluate_every=1, max_tokens=16))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Makes the folder of a run's rewards; `told` is what they say, `trained` the steps of all trainings."""
    pairs = [{"prompt": f"q{i}", "chosen": f"yes {i}", "rejected": "no"} for i in range(12)]
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs" / "helpful.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    monkeypatch.setattr(reward_cache, "cached", lambda part: tmp_path / "cache" / part)

    class Made:
        told, trained = [], []

        def __call__(self, name, **other):
            return RewardFolder(tmp_path / name, str(tmp_path / "pairs"), self.told.append, **other)

    made, step = Made(), Training.step

    def counted(training, index):
        made.trained.append(index)
        return step(training, index)

    monkeypatch.setattr(Training, "step", counted)
    return made


def test_the_next_run_has_the_same_files_without_a_step(folder):
    first = folder("first").train(PART)
    assert len(folder.trained) == 2
    second = folder("second").train(PART)
    assert len(folder.trained) == 2
    assert folder.told[-1] == "the helpful reward model is the one that was trained on these pairs before"
    names = {file.relative_to(first) for file in first.rglob("*") if file.is_file()} - {reward_cache.Path(".lock")}
    assert set(map(reward_cache.Path, LOADED)) < names
    assert {file.relative_to(second) for file in second.rglob("*") if file.is_file()} == names
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


def test_another_seed_setting_or_pair_is_trained_on(folder, tmp_path):
    folder("first").train(PART)
    folder("seed", seed=1).train(PART)
    folder("rate").train(replace(PART, training=replace(PART.training, learning_rate=2e-3)))
    pairs = tmp_path / "pairs" / "helpful.jsonl"
    pairs.write_text(pairs.read_text().replace("yes 3", "yes three"))
    folder("pair").train(PART)
    assert len(folder.trained) == 8


def test_a_damaged_one_is_trained_again_and_kept_anew(folder, tmp_path):
    folder("first").train(PART)
    (kept,) = (tmp_path / "cache" / "rewards").glob("[!.]*")
    (kept / "head.safetensors").write_bytes(b"damaged")
    second = folder("second").train(PART)
    assert len(folder.trained) == 4
    assert (second / "head.safetensors").read_bytes() == (tmp_path / "first/helpful/head.safetensors").read_bytes()
    folder("third").train(PART)
    assert len(folder.trained) == 4


def test_a_training_that_began_goes_on_where_it_was(folder, monkeypatch):
    folder("first").train(PART)
    monkeypatch.setattr(reward_cache, "cached", lambda part: folder("elsewhere").path / part)
    step = Training.step

    def stopped(training, index):
        if index == 1:
            raise KeyboardInterrupt
        return step(training, index)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "step", stopped)
        with pytest.raises(KeyboardInterrupt):
            folder("second").train(PART)
    folder("second").train(PART)
    assert folder.trained == [0, 1, 0, 1]


def test_nothing_is_put_where_something_stands(folder, tmp_path):
    folder("first").train(PART)
    (tmp_path / "second" / "helpful").mkdir(parents=True)
    (tmp_path / "second" / "helpful" / "mine.txt").write_text("mine")
    second = folder("second").train(PART)
    assert len(folder.trained) == 4
    assert (second / "mine.txt").read_text() == "mine"
    assert [path.name for path in second.parent.iterdir()] == ["helpful"]


def test_a_cache_that_cannot_be_written_is_done_without(folder, monkeypatch):
    def refused(*_given, **_named):
        raise RunFolderError("no room")

    monkeypatch.setattr(reward_cache, "written_once", refused)
    folder("first").train(PART)
    folder("second").train(PART)
    assert len(folder.trained) == 4
