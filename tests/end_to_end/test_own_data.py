"""A practitioner's own data file: all of it is used, what was done to it is told, and it may not change under a run."""

from __future__ import annotations

import functools
import json
import shutil

import pytest

from helpers.command_line import assert_refused, settings, wavetune

ONE_ROUND = (
    "run.rounds=1",
    "run.local_steps=1",
    "run.samples=0",
    "world.scenario.population.num_clients=2",
    "world.data.max_tokens=48",
)
TOLD = (
    "data: 34 training and 4 validation rows of mine.json; columns not used: id; 2 rows without an answer (or a "
    "text to classify) dropped; no validation part: 4 rows (4 of 38 prompts) of train held out, seed 0; 1 training "
    "prompts cut to world.data.max_tokens; 1 training answers cut to world.data.max_tokens"
)


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    rows = [{"id": i, "instruction": f"Say {i}", "input": "", "output": f"it is {i}"} for i in range(40)]
    rows[8]["output"] = rows[9]["output"] = ""
    rows[10]["output"] = "long " * 20
    file = tmp_path_factory.mktemp("data") / "mine.json"
    file.write_text(json.dumps(rows, indent=2))
    return file


def without_samples(assignments):
    """Options of a small run that say nothing of how many rows there are."""
    words = settings(*assignments)
    pairs = zip(words[::2], words[1::2], strict=True)
    return [word for pair in pairs if "train_samples" not in pair[1] for word in pair]


@pytest.fixture(scope="module")
def trained(mine, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    return wavetune("run", "sflllm", *without_samples(ONE_ROUND), "--data", mine, "--out", out), out


def test_all_rows_are_trained_on_and_what_was_left_out_is_told(trained):
    answer, out = trained
    assert answer.code == 0, answer.err
    assert TOLD in (answer.out + answer.err).replace("\n", " ")
    data = json.loads((out / "summary.json").read_text())["data"]
    assert (data["train_samples"], data["validation_samples"], data["dropped"]) == (34, 4, 2)
    assert "; ".join(data["notes"]) in TOLD
    assert data["rows"]["train"] == {"kept": 34, "dropped": 0, "truncated_prompts": 1, "truncated_answers": 1}
    assert "2 rows without an answer (or a text to classify) dropped" in (out / "report.html").read_text()


def test_a_plan_tells_the_same(mine):
    answer = wavetune("plan", "sflllm", *without_samples(ONE_ROUND), "--data", mine)
    assert TOLD in (answer.out + answer.err).replace("\n", " ")


def unfinished(run, out):
    """A copy of a run from which a resumed one has something left to do."""
    shutil.copytree(run, out)
    (out / "summary.json").unlink()
    shutil.rmtree(out / "checkpoints")
    return out


def test_a_run_whose_data_changed_is_not_continued(trained, mine, tmp_path):
    out, before = unfinished(trained[1], tmp_path / "run"), mine.read_text()
    rows = json.loads(before)
    try:
        mine.write_text(json.dumps(rows[:-4]))
        assert_refused(wavetune("run", "--resume", "--out", out), "training rows of mine.json", "34 rows then, 31 now",
                       "start a new run")  # fmt: skip
        mine.write_text(before.replace("it is", "it was"))
        assert_refused(wavetune("run", "--resume", "--out", out), "the same number of rows, 34, with other contents")
        mine.write_text(json.dumps(rows))
        assert wavetune("run", "--resume", "--out", out).code == 0
    finally:
        mine.write_text(before)


def test_a_run_whose_model_changed_is_not_continued(trained, tmp_path):
    out = unfinished(trained[1], tmp_path / "run")
    inputs = json.loads((out / "inputs.json").read_text())
    inputs["model"]["model.safetensors"] = "other"
    (out / "inputs.json").write_text(json.dumps(inputs))
    assert_refused(wavetune("run", "--resume", "--out", out), "the model in", "has changed")


@pytest.mark.parametrize(
    ("path", "value"),
    [("world.scenario.population.clock_hz", [1e9, 2e9]), ("method.optimiser.learning_rate", 0.5), ("run.samples", 9)],
)
def test_a_run_whose_recipe_was_changed_by_hand_is_not_continued(path, value, trained, tmp_path):
    out = unfinished(trained[1], tmp_path / "run")
    recipe = json.loads((out / "recipe.json").read_text())
    *inner, name = path.split(".")
    functools.reduce(dict.__getitem__, inner, recipe)[name] = value
    (out / "recipe.json").write_text(json.dumps(recipe))
    assert_refused(wavetune("run", "--resume", "--out", out), f"{path} of recipe.json has changed", "start a new run")


def test_a_run_is_continued_from_a_recipe_that_computes_the_same_or_names_values_its_beginning_did_not(
    trained, tmp_path
):
    out = unfinished(trained[1], tmp_path / "run")
    recipe, inputs = (json.loads((out / name).read_text()) for name in ("recipe.json", "inputs.json"))
    recipe["run"]["tokens_per_pass"] = 50
    del inputs["recipe"]["method"]["proximal"]
    (out / "recipe.json").write_text(json.dumps(recipe))
    (out / "inputs.json").write_text(json.dumps(inputs))
    answer = wavetune("run", "--resume", "--out", out)
    assert answer.code == 0, answer.err


def test_columns_of_any_name_are_asked_for_and_read(tmp_path):
    (tmp_path / "mine.csv").write_text("frage,antwort\n" + "".join(f"Sage {i},{i}\n" for i in range(20)))
    words = ["plan", "sflllm", *without_samples(ONE_ROUND), "--data", tmp_path / "mine.csv"]
    assert_refused(wavetune(*words), "mine.csv:2", "frage, antwort", "world.data.columns")
    mapping = ["--set", "world.data.columns.prompt=frage", "--set", "world.data.columns.response=antwort"]
    assert "data: 18 training and 2 validation rows of mine.csv" in wavetune(*words, *mapping).out
    assert (
        "20 training and 4 validation rows"
        in wavetune(*words, *mapping, "--set", "world.data.validation_fraction=0").out
    )
