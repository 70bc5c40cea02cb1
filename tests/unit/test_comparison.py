import json
import math

import pytest

from wavetune import comparison, recipes
from wavetune.comparison import as_markdown, compare, rows_of
from wavetune.console import given_command
from wavetune.errors import ConfigError, RunFolderError
from wavetune.recipe import with_settings

T_975_2 = 4.302652729911275  # Student's t for 3 seeds


def summary(accuracy, bits, delay_s=10.0):
    return {
        "evaluation": {"after": {"own_accuracy_K": [accuracy, None], "own_loss_K": [1 - accuracy]}},
        "bits": {"adapters_up": bits, "adapters_down": 5 * bits},
        "delay_s": delay_s,
        "energy_j": 2.0,
        "phases": {"fed_upload_s": [1.0, 4.0]},
        "full_model_bits": 1000,
        "num_clients": 2,
        "rounds": 3,
        "model": {"name": "tiny", "note": "random weights"},
        "data": {"name": "reviews", "train_samples": 8, "validation_samples": 4, "partition": "iid"},
    }


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Three seeds of a method and one baseline, their runs made up."""
    values = {"proposed": [0.5, 0.6, 0.7], "fedavg_lora": [0.4, 0.6, 0.5]}

    def finished(_recipe, folder, _watch):
        method, seed = folder.name.rsplit("-seed", 1)
        return summary(values[method][int(seed)], 600 if method == "proposed" else 1200)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(comparison, "_finished", finished)
        out = tmp_path_factory.mktemp("comparison")
        return compare(recipes.get("pwff_task"), ["fedavg_lora"], 3, out, lambda _: None, None)


def test_means_intervals_and_paired_differences(table):
    ours, theirs = (table["methods"][name]["own accuracy"] for name in ("proposed", "fedavg_lora"))
    assert ours["mean"] == pytest.approx(0.6)
    assert ours["half_width_95"] == pytest.approx(T_975_2 * 0.1 / math.sqrt(3))
    assert theirs["proposed_minus_this"]["values"] == pytest.approx([0.1, 0.0, 0.2])
    assert theirs["proposed_minus_this"]["half_width_95"] == pytest.approx(T_975_2 * 0.1 / math.sqrt(3))
    assert table["methods"]["fedavg_lora"]["uplink bits"]["proposed_minus_this"]["mean"] == -600


def test_rewards_are_mixed_in_the_spread_of_the_proposed_methods_answers_whatever_their_units():
    def aligned(helpful, safe, scale):
        after = {"helpful_K": helpful, "safe_K": safe}
        stage = {"lambdas": [0.5, 1.0], "after": after, "scale": scale}
        return summary(0.5, 600) | {"alignment": stage}

    runs = {
        "proposed": [aligned([1.0, 1.0], [10.0, 10.0], {"helpful": 0.5, "safe": 10.0})],
        "fedavg_lora": [aligned([1.0, 2.0], [0.0, 0.0], {"helpful": 99.0, "safe": 99.0})],
    }
    rows = comparison._table(runs)["methods"]
    assert rows["proposed"]["mixed reward (sd)"]["values"] == pytest.approx([((2 + 1) / 2 + 2) / 2])
    assert rows["fedavg_lora"]["mixed reward (sd)"]["values"] == pytest.approx([(2 / 2 + 4) / 2])


def test_the_full_model_costs_its_bits_and_their_time_at_the_same_rates(table):
    full = table["methods"]["full model, accounted"]
    assert full["uplink bits"]["mean"] == 1000 * 2 * 3
    assert full["delay_s"]["mean"] == pytest.approx(10 - 4 + 4 * 6000 / 600)
    assert "own accuracy" not in full


def test_rows_are_metrics_and_columns_methods(table):
    heading, *rows = rows_of(table)
    assert heading == ("", "proposed", "fedavg lora", "full model, accounted")
    named = {row[0]: row[1:] for row in rows}
    assert named["own accuracy ↑"] == ("60.0 %\n± 24.8 %", "50.0 %\n± 24.8 %", "-")
    assert "mixed reward" not in named
    heading, *rows = rows_of(table, differences=True)
    assert heading == ("proposed minus", "fedavg lora", "full model, accounted")
    named = {row[0]: row[1:] for row in rows}
    assert named["own accuracy ↑"] == ("+10.0 %\n± 24.8 %", "-")
    assert named["uplink bits ↓"] == ("−600 bit", "−5.40 kbit")


def test_the_page_names_its_sources(table):
    page = as_markdown(recipes.get("pwff_task"), table)
    for words in (
        "Seeds: 0, 1, 2",
        "tiny: random weights",
        "8 training",
        "| own accuracy ↑ | 60.0 % ± 24.8 % |",
        f"- Command: `{given_command()}`",
    ):
        assert words in page
    tables = [line for line in page.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables} == {5, 4}  # both are whole


def test_reward_models_are_trained_once_a_seed(tmp_path):
    trained, wanted = tmp_path / "proposed-seed0" / "rewards", tmp_path / "local_only-seed0" / "rewards"
    comparison._reuse(trained, wanted)
    assert not wanted.exists()
    (trained / "helpful").mkdir(parents=True)
    (trained / "helpful" / "reward.json").write_text("{}")
    wanted.with_name("rewards.part").mkdir(parents=True)  # of a copy that was stopped
    comparison._reuse(trained, wanted)
    assert [path.name for path in wanted.parent.iterdir()] == ["rewards"]
    (wanted / "helpful" / "reward.json").write_text("own")
    comparison._reuse(trained, wanted)
    assert (wanted / "helpful" / "reward.json").read_text() == "own"


@pytest.mark.parametrize("name", ["pwff", "pwff_task"])
def test_every_baseline_is_a_valid_recipe_with_a_title_of_its_own(name):
    baselines = recipes.baselines_of(name)
    titles = {with_settings(recipes.get(name), settings).method.title for settings in baselines.values()}
    assert len(titles) == len(baselines) > 3


def test_unknown_methods_and_folders_of_others_are_refused(tmp_path):
    recipe = recipes.get("pwff_task")
    with pytest.raises(ConfigError, match="local_only"):
        compare(recipe, ["local"], 1, tmp_path, lambda _: None, None)
    (tmp_path / "recipe.json").write_text(json.dumps({"name": "other"}))
    with pytest.raises(RunFolderError, match="other settings"):
        compare(recipe, None, 1, tmp_path, lambda _: None, None)


def test_few_seeds_are_warned_of_and_directions_said(table):
    page = as_markdown(recipes.get("pwff_task"), table)
    assert "↑: more is better" in page
    assert "too wide" not in page
    assert "too wide" in as_markdown(recipes.get("pwff_task"), {**table, "seeds": [0, 1]})
    assert "no interval" in as_markdown(recipes.get("pwff_task"), {**table, "seeds": [0]})


def test_baselines_are_checked_before_anything_is_loaded():
    assert {"fedavg_lora", "centralised_lora"} <= recipes.baselines_of("sflllm").keys()
    with pytest.raises(ConfigError, match="did you mean 'fedavg_lora'"):
        recipes.require_methods("sflllm", ["fedavg"])
    with pytest.raises(ConfigError, match="no baselines"):
        recipes.require_methods("fedsllm", None)
