"""The planner's command line: options that would do nothing, time limits of the whole command, faults of a planner."""

import json
import shutil
from dataclasses import replace

import pytest

from helpers.command_line import assert_refused, settings, wavetune
from helpers.problems import cell_problem
from wavetune.allocation import describe, feasibility
from wavetune.allocation.feasibility import require_feasible
from wavetune.allocation.instance import problem_to_json
from wavetune.allocation.planner import plan
from wavetune.errors import PlanError
from wavetune.models.resolve import resolve_model


@pytest.fixture
def instance(tmp_path):
    path = tmp_path / "instance.json"
    path.write_text(json.dumps(problem_to_json(cell_problem(3, 8, seed=1))))
    return path


@pytest.mark.parametrize("command", ["plan", "trade-off"])
@pytest.mark.parametrize(
    "option",
    [
        ("--set", "method.lora.rank=4"),
        ("--data", "x"),
        ("--model", "tiny"),
        ("--seed", "1"),
        ("--rank-table", "x.json"),
    ],
)
def test_options_that_change_recipes_are_refused_beside_an_instance(command, option, instance):
    assert_refused(wavetune(command, instance, *option), option[0], "plan instance")


def test_what_would_help_is_planned_only_for_who_reads_it_and_within_the_limit(instance, tmp_path, monkeypatch):
    asked = []

    def plans(problem, time_limit_s=None, warm_start=None):
        asked.append(time_limit_s)
        return plan(problem, time_limit_s, warm_start)

    monkeypatch.setattr(describe, "best_plan", plans)
    assert wavetune("plan", instance, "--json", tmp_path / "plan.json").code == 0
    assert asked == []
    limited = wavetune("plan", instance, "--time-limit", "1000")
    assert "what would help" in limited.out
    assert asked
    assert all(limit is not None and limit < 1000 / 6 for limit in asked)
    asked.clear()
    assert "no time left" in wavetune("plan", instance, "--time-limit", "0.001").out
    assert asked == []


def test_what_would_help_is_searched_for_no_longer_than_the_plan_itself(monkeypatch):
    asked = []

    def plans(problem, time_limit_s=None, warm_start=None):
        asked.append(time_limit_s)
        return plan(problem, 0.0, warm_start)

    monkeypatch.setattr(describe, "best_plan", plans)
    for limit, words in ((900.0, ()), (60.0, ("--time-limit", 60))):
        asked.clear()
        answer = wavetune("plan", "sflllm", *settings("method.planner.time_limit_s=900"), *words)
        assert "what would help" in answer.out, answer.err
        assert len(asked) > 5
        assert all(one == limit if not words else one < limit / 6 for one in asked)


def test_ranks_wider_than_the_narrowest_map_are_left_out_of_the_choice_and_told(tmp_path):
    folder = shutil.copytree(resolve_model("tiny").folder, tmp_path / "narrow")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_key_value_heads": 1, "head_dim": 6}))
    answer = wavetune("plan", "sflllm", *settings(f"world.model={json.dumps(str(folder))}"))
    assert answer.code == 0, answer.err
    assert "ranks wider than the model's narrowest LoRA target left out: 8, 16" in answer.out


@pytest.mark.parametrize("command", ["plan", "trade-off"])
def test_an_infeasible_instance_is_one_line_on_standard_error(instance, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    data = json.loads(instance.read_text())
    data["bands"]["main"]["gain"] = [[0.0] * len(row) for row in data["bands"]["main"]["gain"]]
    instance.write_text(json.dumps(data))
    answer = wavetune(command, instance)
    assert (answer.code, answer.out) == (3, "")
    assert answer.err.startswith("wavetune: no plan exists: ")
    assert len(answer.err.splitlines()) == 1


def test_a_plan_that_breaks_a_constraint_is_called_a_fault_of_the_planner():
    problem = cell_problem(3, 8, seed=1)
    good = plan(problem)
    assert require_feasible(problem, good) is good
    greedy = replace(good, main=replace(good.main, power_w_M=10 * good.main.power_w_M))
    with pytest.raises(PlanError, match=r"exceeds its power.*fault of the planner that made it"):
        feasibility.require_feasible(problem, greedy)


@pytest.mark.parametrize("setting", ["population.cycles_per_flop=1e308", "fading.delay_spread_s=1e308"])
def test_numbers_beyond_all_bounds_leave_no_warning_on_the_terminal(setting):
    answer = wavetune(
        "plan", "centralised_lora", "--model", "tiny", "--time-limit", 1, "--set", f"world.scenario.{setting}"
    )
    assert answer.code in (0, 2)
    assert "Warning" not in answer.err
