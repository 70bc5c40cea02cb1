import json

import pytest

import wavetune as wt
from helpers.command_line import assert_refused, wavetune
from wavetune import recipes
from wavetune.api.yaml_values import as_yaml

YAML = """\
# a short run in a small cell
base: sflllm
name: mine
run:
  rounds: 3
  precision: fp32   # no surprises
world.scenario.population.num_clients: 4
method:
  optimiser: {learning_rate: 1e-3}
  lora: {rank: 4}
  mixing: {kind: average_product}
"""
TOML = """
base = "sflllm"
name = "mine"
[run]
rounds = 3
precision = "fp32"  # no surprises
[world.scenario.population]
num_clients = 4
[method]
optimiser.learning_rate = 1e-3
lora.rank = 4
mixing.kind = "average_product"
"""


def written(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    return tmp_path / name


@pytest.mark.parametrize(("name", "text"), [("mine.yaml", YAML), ("mine.yml", YAML), ("mine.toml", TOML)])
def test_a_file_with_a_base_holds_only_what_differs(tmp_path, name, text):
    found = wt.recipe(written(tmp_path, name, text))
    wanted = wt.recipe(
        "sflllm", "name=mine", "run.rounds=3", "run.precision=fp32", "world.scenario.population.num_clients=4",
        "method.optimiser.learning_rate=1e-3", "method.lora.rank=4", "method.mixing.kind=average_product",
    )  # fmt: skip
    assert found == wanted


def test_a_base_may_be_another_file_found_from_where_the_first_one_is(tmp_path):
    written(tmp_path, "mine.yaml", YAML)
    (tmp_path / "inside").mkdir()
    found = wt.recipe(written(tmp_path / "inside", "longer.toml", 'base = "../mine.yaml"\nrun.rounds = 9'))
    assert (found.run.rounds, found.method.lora.rank) == (9, 4)


def test_settings_and_own_data_hold_over_a_file_as_over_a_name(tmp_path):
    file = written(tmp_path, "mine.yaml", YAML)
    rows = written(tmp_path, "rows.jsonl", '{"prompt": "a", "completion": "b"}\n')
    found = wt.recipe(file, "run.rounds=5", data=rows)
    assert (found.run.rounds, found.world.data.train_samples) == (5, None)


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_shown_as_yaml_reads_as_itself(tmp_path, name):
    recipe = recipes.get(name)
    assert wt.recipe(written(tmp_path, "whole.yaml", as_yaml(recipe.to_dict()))) == recipe


def test_show_writes_yaml_on_demand(tmp_path):
    shown = wavetune("show", written(tmp_path, "mine.yaml", YAML), "--yaml").out
    assert shown.startswith("#")
    assert wt.recipe(written(tmp_path, "shown.yaml", shown)) == wt.recipe(tmp_path / "mine.yaml")


@pytest.mark.parametrize("word", ["no", "1e-3x", "2024-01-01", "12:30", "0x10", "null", "true", "1e3", "7", "~", " a"])
def test_texts_stay_texts_in_yaml(tmp_path, word):
    recipe = wt.recipe("sflllm", f"world.model={json.dumps(word)}")
    assert wt.recipe(written(tmp_path, "whole.yaml", as_yaml(recipe.to_dict()))).world.model == word


REFUSED = {
    "no base": ("mine.yaml", "run: {rounds: 3}", "base: sflllm"),
    "no such base": ("mine.yaml", "base: sflllmm", "did you mean 'sflllm'"),
    "no such field": ("mine.yaml", "base: sflllm\nrun: {round: 3}", "mine.yaml: run has no field 'round'"),
    "wrong type": ("mine.toml", 'base = "sflllm"\nrun.rounds = "x"', "run.rounds"),
    "not YAML": ("mine.yaml", "base: [sflllm", "mine.yaml"),
    "not TOML": ("mine.toml", "base = ", "Invalid value"),
    "twice": ("mine.yaml", "base: sflllm\nrun: {rounds: 3, rounds: 4}", "rounds stands there twice"),
    "alias": ("mine.yaml", "base: &a sflllm\nname: *a", "aliases"),
    "tag": ("mine.yaml", "base: !!python/object:os.system x", "mine.yaml"),
    "a list": ("mine.yaml", "- sflllm", "expected a mapping"),
    "a circle": ("mine.yaml", "base: mine.yaml", "break the circle"),
    "a date": ("mine.toml", 'base = "sflllm"\nrun.rounds = 2024-01-01', "run.rounds holds"),
    "deep": ("mine.yaml", "base: sflllm\nrun: " + "[" * 5000 + "]" * 5000, "mine.yaml"),
    "base is no text": ("mine.yaml", "base: 3", "base must be the name"),
    "not there": ("none.yaml", None, "cannot read"),
    "another ending": ("mine.txt", "base: sflllm", ".yaml"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_with_a_file_is_one_sentence_that_names_it(tmp_path, case):
    name, text, words = REFUSED[case]
    if text is not None:
        written(tmp_path, name, text)
    assert_refused(wavetune("show", tmp_path / name), words)


def test_a_json_file_may_have_a_base_too(tmp_path):
    file = written(tmp_path, "mine.json", json.dumps({"base": "sflllm", "run": {"rounds": 3}}))
    assert wt.recipe(file).run.rounds == 3
    assert json.loads(wavetune("show", file, "--json").out)["run"]["rounds"] == 3
