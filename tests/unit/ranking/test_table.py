"""The table of a ranking or comparison, from runs that are made up."""

import json
import math
from dataclasses import replace

import pytest

from wavetune import recipes
from wavetune.ranking import contest as contests
from wavetune.ranking.contest import Cell, Contest, Outcome
from wavetune.ranking.entrants import beside_baselines, in_world_of, side_by_side
from wavetune.ranking.page import as_markdown
from wavetune.ranking.table import rows_of, table_of
from wavetune.recipe import with_settings

T_975_2 = 4.302652729911275  # Student's t for 3 seeds
MODEL = {"name": "tiny", "note": "random weights"}
DATA = {"name": "reviews", "train_samples": 8, "validation_samples": 4, "partition": "iid"}


def made_up(folder, losses, accuracy=None, delay_s=10.0, bits=600.0, **more):
    """A run of a round for each loss but the first, the untouched model's; each round costs as much as the others."""
    folder.mkdir(parents=True)
    judged = [{"loss": loss, "own_loss_K": [loss, None]} for loss in losses]
    if accuracy is not None:
        judged = [one | {"accuracy": accuracy, "own_accuracy_K": [accuracy, None]} for one in judged]
    rounds = len(losses) - 1
    share = {"delay_s": delay_s / rounds, "energy_j": 2.0 / rounds}
    lines = [
        {"round": i, "charged": share, "metered_bits": {"adapters_up": bits / rounds}, "evaluation": judged[i + 1]}
        for i in range(rounds)
    ]
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    summary = {
        "evaluation": {"before": judged[0], "after": judged[-1]},
        "validation_loss": {"before": losses[0], "after": losses[-1]},
        "bits": {"adapters_up": bits, "adapters_down": 5 * bits},
        "delay_s": delay_s,
        "energy_j": 2.0,
        "phases": {"fed_upload_s": [1.0, 4.0]},
        "full_model_bits": 1000,
        "num_clients": 2,
        "rounds": 3,
        "personal": False,
        "model": MODEL,
        "data": DATA,
    }
    (folder / "summary.json").write_text(json.dumps(summary | more))


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    """Three seeds of a method and one baseline."""
    folder = tmp_path_factory.mktemp("comparison")
    values = {"proposed": [0.5, 0.6, 0.7], "fedavg_lora": [0.4, 0.6, 0.5]}
    for method, accuracies in values.items():
        for seed, accuracy in enumerate(accuracies):
            bits = 600 if method == "proposed" else 1200
            made_up(folder / f"{method}-seed{seed}", [2.0, 1.5, 1 - accuracy], accuracy, bits=bits)
    entrants = beside_baselines(recipes.get("pwff_task"), ["fedavg_lora"])
    return table_of(Outcome(folder, Contest(entrants, 3)), against="proposed") | {"command": "wavetune compare"}


def ranking(folder, curves, **changes):
    """Recipes with a curve of losses for every seed, ranked."""
    for name, by_seed in curves.items():
        for seed, losses in enumerate(by_seed):
            made_up(folder / f"{name}-seed{seed}", losses)
    named = [recipes.get(name) for name in curves]
    contest = Contest(side_by_side(named, named[0]), len(next(iter(curves.values()))))
    return table_of(Outcome(folder, contest), **changes)


def test_means_intervals_and_paired_differences(comparison):
    ours, theirs = (comparison["methods"][name]["own accuracy"] for name in ("proposed", "fedavg_lora"))
    assert ours["mean"] == pytest.approx(0.6)
    assert ours["half_width_95"] == pytest.approx(T_975_2 * 0.1 / math.sqrt(3))
    assert theirs["proposed_minus_this"]["values"] == pytest.approx([0.1, 0.0, 0.2])
    assert theirs["proposed_minus_this"]["half_width_95"] == pytest.approx(T_975_2 * 0.1 / math.sqrt(3))
    assert comparison["methods"]["fedavg_lora"]["uplink bits"]["proposed_minus_this"]["mean"] == -600


def test_rewards_are_mixed_in_the_spread_of_the_first_methods_answers_whatever_their_units(tmp_path):
    def aligned(method, helpful, safe, scale):
        after = {"helpful_K": helpful, "safe_K": safe}
        stage = {"steps": 1, "lambdas": [0.5, 1.0], "after": after, "scale": scale}
        made_up(tmp_path / f"{method}-seed0", [2.0, 1.0], alignment=stage)

    aligned("proposed", [1.0, 1.0], [10.0, 10.0], {"helpful": 0.5, "safe": 10.0})
    aligned("fedavg_lora", [1.0, 2.0], [0.0, 0.0], {"helpful": 99.0, "safe": 99.0})
    entrants = beside_baselines(recipes.get("pwff"), ["fedavg_lora"])
    rows = table_of(Outcome(tmp_path, Contest(entrants, 1)), against="proposed")["methods"]
    assert rows["proposed"]["mixed reward (sd)"]["values"] == pytest.approx([((2 + 1) / 2 + 2) / 2])
    assert rows["fedavg_lora"]["mixed reward (sd)"]["values"] == pytest.approx([(2 / 2 + 4) / 2])


def test_the_full_model_costs_its_bits_and_their_time_at_the_same_rates(comparison):
    full = comparison["methods"]["full model, accounted"]
    assert full["uplink bits"]["mean"] == 1000 * 2 * 3
    assert full["delay_s"]["mean"] == pytest.approx(10 - 4 + 4 * 6000 / 600)
    assert "own accuracy" not in full


def test_rows_of_a_comparison_are_metrics_and_columns_methods(comparison):
    heading, *rows = rows_of(comparison)
    assert heading == ("", "proposed", "fedavg lora", "full model, accounted")
    named = {row[0]: row[1:] for row in rows}
    assert named["own accuracy ↑"] == ("60.0 %\n± 24.8 %", "50.0 %\n± 24.8 %", "-")
    assert "mixed reward" not in named
    heading, *rows = rows_of(comparison, differences=True)
    assert heading == ("proposed minus", "fedavg lora", "full model, accounted")
    named = {row[0]: row[1:] for row in rows}
    assert named["own accuracy ↑"] == ("+10.0 %\n± 24.8 %", "-")
    assert named["uplink bits ↓"] == ("−600 bit", "−5.40 kbit")


def test_the_page_names_its_sources_and_few_seeds(comparison):
    recipe = recipes.get("pwff_task")
    page = as_markdown(recipe, comparison, "figure.svg")
    for words in (
        "Seeds: 0, 1, 2",
        "tiny: random weights",
        "8 training",
        "| own accuracy ↑ | 60.0 % ± 24.8 % |",
        "- Command: `wavetune compare`",
        "↑: more is better",
    ):
        assert words in page
    tables = [line for line in page.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables} == {5, 4}  # both are whole
    assert "too wide" not in page
    assert "too wide" in as_markdown(recipe, {**comparison, "seeds": [0, 1]}, "figure.svg")
    assert "no interval" in as_markdown(recipe, {**comparison, "seeds": [0]}, "figure.svg")


def test_costs_are_counted_to_what_half_of_the_methods_reach_seed_by_seed(tmp_path):
    curves = {
        "sflllm": [[3.0, 2.0, 1.0], [3.0, 2.5, 2.0]],
        "fedavg_lora": [[3.0, 1.5, 1.5], [3.0, 1.9, 1.8]],
        "gossip": [[3.0, 3.0, 2.9], [3.0, 2.0, 2.0]],
    }
    table = ranking(tmp_path, curves)
    assert table["target"] == {"given": False, "by_seed": [1.5, 2.0]}
    cost = {name: row["delay to target_s"] for name, row in table["methods"].items()}
    assert cost["sflllm"]["values"] == [10.0, 10.0]
    assert cost["fedavg_lora"]["values"] == [5.0, 5.0]
    assert (cost["fedavg_lora"]["rank"], cost["sflllm"]["rank"]) == (1, 2)
    assert cost["sflllm"]["this_minus_best"]["values"] == [5.0, 5.0]
    assert cost["gossip"]["mean"] is None  # it is said how many seeds reach it, and no number is made up
    assert cost["gossip"]["reached"] == 1
    assert "rank" not in cost["gossip"]
    cell = {row[0]: row[2] for row in rows_of(table)}
    assert cell["gossip"] == "reached with\n1 of 2 seeds"
    assert cell["fedavg lora"] == "★ 5.00 s"


def test_a_given_target_and_budget_hold_for_all(tmp_path):
    curves = {"sflllm": [[3.0, 2.0, 1.0]], "fedavg_lora": [[3.0, 2.9, 2.8]]}
    table = ranking(tmp_path, curves, target=1.0, budgets={"delay": 6.0})
    assert table["methods"]["fedavg_lora"]["energy to target_j"]["values"] == [None]
    assert table["methods"]["sflllm"]["energy to target_j"]["values"] == [2.0]
    assert table["methods"]["sflllm"]["validation loss within delay budget"]["values"] == [2.0]
    assert table["methods"]["sflllm"]["validation loss within bits budget"]["values"] == [1.0]
    assert "not reached" in {row[0]: row[2] for row in rows_of(table)}["fedavg lora"]


def test_there_is_no_target_where_methods_learn_nothing(tmp_path):
    table = ranking(tmp_path, {"sflllm": [[3.0, 3.5]], "fedavg_lora": [[3.0, 3.1]]})
    assert table["target"]["by_seed"] == [None]
    assert not [name for name in table["metrics"] if "to target" in name]


def test_what_moves_all_data_for_free_is_not_ranked_by_its_costs(tmp_path):
    table = ranking(tmp_path, {"sflllm": [[3.0, 2.0]], "centralised_lora": [[3.0, 1.0]]})
    assert table["not_ranked"]["centralised_lora"].keys() == {"delay", "energy", "bits"}
    central = table["methods"]["centralised_lora"]
    assert central["final validation loss"]["rank"] == 1
    assert "rank" not in central["validation loss within bits budget"]
    assert table["methods"]["sflllm"]["validation loss within bits budget"]["rank"] == 1
    cells = dict(zip(*rows_of(table)[:1], rows_of(table)[2], strict=True))
    assert cells["bits to target ↓"].startswith("(")


def test_a_method_whose_links_cost_no_energy_is_not_ranked_by_it(tmp_path):
    table = ranking(tmp_path, {"sflllm": [[3.0, 2.0]], "gossip": [[3.0, 1.0]], "stfl": [[3.0, 2.5]]})
    assert table["not_ranked"] == {"gossip": {"energy": "the energy of links between clients is not charged"}}
    ring = table["methods"]["gossip"]
    assert "rank" not in ring["energy to target_j"]
    assert ring["bits to target"]["rank"] == 1
    cells = dict(zip(rows_of(table)[0], rows_of(table)[2], strict=True))
    assert cells["energy to target ↓"].startswith("(")
    assert "gossip is not ranked by energy" in as_markdown(recipes.get("sflllm"), table | {"command": ""}, "f.svg")


def test_runs_with_personal_models_are_ranked_on_own_domains(tmp_path):
    for name, personal in (("sflllm", False), ("pwff_task", True)):
        made_up(tmp_path / f"{name}-seed0", [3.0, 2.0], personal=personal)
    named = [recipes.get("sflllm"), recipes.get("pwff_task")]
    table = table_of(Outcome(tmp_path, Contest(side_by_side(named, named[0]), 1)))
    assert table["quality"] == "loss on own domains"
    assert "validation loss" not in table["methods"]["pwff_task"]


def test_a_difference_whose_interval_holds_zero_is_not_told_apart(tmp_path):
    curves = {
        "sflllm": [[3.0, 2.0], [3.0, 2.2], [3.0, 2.1]],
        "gossip": [[3.0, 2.1], [3.0, 2.15], [3.0, 2.1]],
        "fedavg_lora": [[3.0, 2.5], [3.0, 2.71], [3.0, 2.6]],
    }
    rows = {row[0]: row[1] for row in rows_of(ranking(tmp_path, curves))}
    assert rows["sflllm"].startswith("★")
    assert rows["gossip"].startswith("≈")
    assert rows["fedavg lora"].startswith("2.6")


def test_reward_models_are_trained_once_a_seed(tmp_path):
    trained, wanted = tmp_path / "proposed-seed0" / "rewards", tmp_path / "local_only-seed0" / "rewards"
    contests.reuse(trained, wanted)
    assert not wanted.exists()
    (trained / "helpful").mkdir(parents=True)
    (trained / "helpful" / "reward.json").write_text("{}")
    wanted.with_name("rewards.part").mkdir(parents=True)  # of a copy that was stopped
    contests.reuse(trained, wanted)
    assert [path.name for path in wanted.parent.iterdir()] == ["rewards"]
    (wanted / "helpful" / "reward.json").write_text("own")
    contests.reuse(trained, wanted)
    assert (wanted / "helpful" / "reward.json").read_text() == "own"


@pytest.mark.parametrize("name", ["pwff", "pwff_task"])
def test_every_baseline_is_a_valid_recipe_with_a_title_of_its_own(name):
    baselines = recipes.baselines_of(name)
    titles = {with_settings(recipes.get(name), settings).method.title for settings in baselines.values()}
    assert len(titles) == len(baselines) > 3


def test_all_stand_in_the_world_of_the_first_and_lose_as_many_uploads():
    first = with_settings(recipes.get("stfl"), ["run.seed=7", "run.precision=fp32"])
    other = in_world_of(first, recipes.get("osafl"))
    assert other.world == first.world
    assert other.method.link.loss_probability == first.method.link.loss_probability == 0.3
    assert (other.run.seed, other.run.precision, other.run.rounds) == (7, "fp32", 10)
    assert in_world_of(recipes.get("sflllm"), recipes.get("stfl")).method.link.loss_probability == 0
    ring = in_world_of(first, recipes.get("gossip"))  # without a server an upload is not lost
    assert ring.method.link == recipes.get("gossip").method.link


def test_a_disturbed_run_is_the_same_but_for_what_disturbs_it():
    contest = Contest({"sflllm": recipes.get("sflllm"), "gossip": recipes.get("gossip")}, 1, ("outage", "lost_devices"))
    cells = contest.cells
    plain = cells[Cell("sflllm", 0)]
    lossy, lonely = (cells[Cell("sflllm", 0, under)] for under in contest.under)
    assert lossy.method.link.loss_probability == pytest.approx(0.3)
    assert replace(lossy, method=plain.method, run=plain.run) == plain
    assert lonely.world.scenario.channel.from_round == 5
    assert "needs a server" in cells[Cell("gossip", 0, "outage")]
