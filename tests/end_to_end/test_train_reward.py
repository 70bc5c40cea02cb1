from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.torch import load_file

from helpers.command_line import assert_refused, wavetune
from wavetune.data.examples import Example
from wavetune.errors import RunFolderError
from wavetune.federation.rewards import EmbeddedReward, RewardTraining, TrainedReward
from wavetune.runtimes.reward_training import Training
from wavetune.runtimes.rewards import RewardFolder

FILES = ("head.safetensors", "adapter/adapter_model.safetensors")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Pairs whose chosen answer has an exclamation mark, the rejected one a full stop; the rest says nothing."""
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    for part, count in (("train", 120), ("valid", 24), ("test", 40)):
        words = [["".join(map(chr, rng.integers(97, 123, 4))) for _ in range(3)] for _ in range(count)]
        rows = [{"prompt": f"{part} {p}", "chosen": f"{c}!", "rejected": f"{r}."} for p, c, r in words]
        (folder / f"helpful-{part}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def options(pairs, out, **more):
    chosen = {"model": "tiny-bert", "steps": 50, "pairs-per-step": 8, "learning-rate": 0.001, "max-tokens": 48} | more
    flags = [text for name, value in chosen.items() for text in (f"--{name}", value)]
    return ["train-reward", "--kind", "helpful", "--data", pairs, "--out", out, *flags]


@pytest.fixture(scope="module")
def finished(pairs, tmp_path_factory):
    out = tmp_path_factory.mktemp("rewards") / "helpful"
    return wavetune(*options(pairs, out)), out


def test_columns_of_any_name_are_read_and_what_was_left_out_is_told(tmp_path):
    rows = [f"q{i},{'a' if i % 2 else 'b'},b" for i in range(8)]
    (tmp_path / "pairs.csv").write_text("\n".join(["ask,better,worse", *rows]))
    columns = [word for field in ("prompt=ask", "chosen=better", "rejected=worse") for word in ("--column", field)]
    words = [*options(tmp_path / "pairs.csv", tmp_path / "out", steps=1), *columns]
    answer = wavetune(*words)
    assert answer.code == 0, answer.err
    told = "data: helpful pairs of pairs.csv; 4 pairs dropped whose answers are equal or empty"
    assert told in answer.out + answer.err
    assert json.loads((tmp_path / "out" / "reward.json").read_text())["data"]["notes"][0].startswith("4 pairs dropped")
    assert_refused(wavetune(*words, "--column", "better"), "--column takes FIELD=NAME")
    assert_refused(wavetune(*words[:-2]), "world.data.columns", "rejected")


def test_pairs_that_changed_are_not_trained_on_further(pairs, tmp_path, monkeypatch):
    (tmp_path / "pairs.jsonl").write_text((pairs / "helpful-train.jsonl").read_text())
    monkeypatch.setattr("wavetune.runtimes.train_reward._finish", lambda *_: {}.missing)
    with pytest.raises(AttributeError):
        wavetune(*options(tmp_path / "pairs.jsonl", tmp_path / "out", steps=1))
    (tmp_path / "pairs.jsonl").write_text("\n".join((pairs / "helpful-train.jsonl").read_text().splitlines()[:60]))
    answer = wavetune("train-reward", "--resume", "--out", tmp_path / "out")
    assert_refused(answer, "the training pairs of", "108 rows then, 54 now")


def test_it_learns_and_says_how_well(finished):
    answer, out = finished
    assert answer.code == 0, answer.err
    about = json.loads((out / "reward.json").read_text())
    low, high = about["accuracy_interval_95"]
    assert low < about["accuracy"] < high or about["accuracy"] in (low, high)
    assert about["accuracy"] > 0.9
    assert f"{about['accuracy']:.1%} of 40 test pairs right (95% interval {low:.1%} to {high:.1%})" in answer.out
    assert about["tested_on"] == "test"
    assert about["data"]["train_pairs"] == 120
    assert "knows no language" in answer.out
    assert "validation loss" in answer.err


def test_the_saved_reward_prefers_what_was_chosen(finished):
    reward = TrainedReward(str(finished[1])).open()
    example = Example("test abcd", "")
    scores = reward.score([example] * 4, ["wxyz!", "wxyz.", "qqqq!", "qqqq."])
    assert scores[0] > scores[1]
    assert scores[2] > scores[3]


def test_an_interrupted_training_goes_on_to_the_same_end(pairs, finished, tmp_path, monkeypatch):
    step = Training.step

    def interrupted(training, index):
        if index == 30:
            raise KeyboardInterrupt
        return step(training, index)

    monkeypatch.setattr(Training, "step", interrupted)
    out = tmp_path / "helpful"
    stopped = wavetune(*options(pairs, out))
    assert stopped.code == 130
    assert f"wavetune train-reward --resume --out {out}" in stopped.err
    monkeypatch.undo()
    resumed = wavetune("train-reward", "--resume", "--out", out)
    assert resumed.code == 0, resumed.err
    assert "going on after step 20" in resumed.err
    for file in FILES:
        one, other = load_file(out / file), load_file(finished[1] / file)
        assert all((one[name] == other[name]).all() for name in other), file
    assert sorted(one) == sorted(other)


def test_another_seed_gives_another_model_and_a_finished_folder_is_left_alone(pairs, finished, tmp_path):
    out = tmp_path / "other"
    assert wavetune(*options(pairs, out, seed=1, steps=2)).code == 0
    first, second = (load_file(folder / FILES[0])["weight"] for folder in (out, finished[1]))
    assert (first != second).any()
    assert_refused(wavetune(*options(pairs, out)), "already holds a reward model")
    again = wavetune("train-reward", "--resume", "--out", out)
    assert again.code == 0
    assert "finished reward model already" in again.out + again.err


def test_a_run_trains_its_embedded_rewards_once_and_gives_back_the_memory_of_it(pairs, tmp_path, monkeypatch):
    log, given_back = [], []
    monkeypatch.setattr("wavetune.runtimes.rewards.give_back_free_heap", lambda: given_back.append(True))
    training = RewardTraining("tiny-bert", steps=2, pairs_per_step=2, max_tokens=48)
    part = EmbeddedReward(preference="helpful", training=training)
    folder = RewardFolder(tmp_path, str(pairs), log.append)
    example, answers = [Example("p", "")] * 2, ["a!", "a."]
    (reward,) = folder.open([part])
    trained = len(log)
    (again,) = folder.open([part])
    assert trained == len(log) > 0
    assert given_back == [True]
    assert (reward.score(example, answers) == again.score(example, answers)).all()
    (tmp_path / "helpful" / "reward.json").unlink()
    (anew,) = folder.open([part])  # as after a kill
    assert (reward.score(example, answers) == anew.score(example, answers)).all()
    (tmp_path / "helpful" / "reward.json").unlink()
    with pytest.raises(RunFolderError, match="was trained with another training"):
        folder.open([EmbeddedReward(training=RewardTraining("tiny-bert", steps=3))])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--kind", "helpfu"], ["'helpfu'", "did you mean 'helpful'?"]),
        ([], ["--kind is None", "helpful"]),
        (["--kind", "helpful", "--data", "/no/such/folder"], ["'/no/such/folder'", "concierge"]),
        (["--kind", "helpful", "--model", "tinny"], ["'tinny'", "did you mean"]),
        (["--kind", "helpful", "--device", "tpu"], ["'tpu'"]),
        (["--resume"], ["--resume needs --out"]),
        (["--resume", "--kind", "helpful", "--out", "x"], ["--kind does not go with --resume"]),
        (["--resume", "--steps", "3", "--out", "x"], ["--steps does not go with --resume"]),
        (["--resume", "--out", "/no/such/folder"], ["holds no training of a reward model"]),
    ],
)
def test_what_the_user_can_put_right_is_one_sentence(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    quick = [] if "--resume" in arguments else ["--steps", "1", "--pairs-per-step", "1"]
    assert_refused(wavetune("train-reward", *arguments, *quick), *words)
    assert list(tmp_path.iterdir()) == []


def test_pairs_that_cannot_be_read_are_refused(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"prompt": "p", "chosen": "a"}\n')
    answer = wavetune("train-reward", "--kind", "helpful", "--data", tmp_path, "--out", tmp_path / "out")
    assert_refused(answer, "train.jsonl:1", "'rejected'")
    (tmp_path / "train.jsonl").write_text('{"prompt": "p", "chosen": "a", "rejected": "b"}\n')
    answer = wavetune("train-reward", "--kind", "helpful", "--data", tmp_path, "--out", tmp_path / "out")
    assert_refused(answer, "train has one distinct pair; a hold-out needs 2")
    assert not (tmp_path / "out").exists()


def test_damaged_settings_are_refused(tmp_path):
    (tmp_path / "training.json").write_text('{"kind": "helpful", "training": {"steps": "many"}}')
    assert_refused(wavetune("train-reward", "--resume", "--out", tmp_path), "training.json is damaged")
