"""FedsLLM trains: the accuracy sets the local steps, and its bandwidths are what the run is charged with."""

import numpy as np
import pytest

from helpers.command_line import settings, wavetune
from helpers.runs import WIDE, read_json, read_rounds, small, train
from wavetune.errors import ConfigError
from wavetune.recipe import with_settings
from wavetune.runtimes.world import planner_of

PLANNED_STEPS = "run.local_steps=0"


def test_run_trains_with_the_planned_steps_and_is_charged_what_was_planned(tmp_path):
    recipe = small("fedsllm", PLANNED_STEPS, "method.topology.cut=1")
    planner, _ = planner_of(recipe)
    summary = train(recipe, tmp_path / "run")
    assert summary["local_steps"] == planner.local_steps >= 1
    for record in read_rounds(tmp_path / "run"):
        assert record["charged"]["local_steps"] == planner.local_steps
        assert record["charged"]["delay_s"] == pytest.approx(record["planned"]["delay_s"], rel=1e-9)
        _, plan = planner.plan(record["round"], planner.first_plan())
        assert record["allocation"]["main"]["owner"] == plan.main.owner_M.tolist()
    assert read_json(tmp_path / "run" / "recipe.json")["run"]["local_steps"] == 0


def test_bandwidths_follow_the_channel_of_every_round():
    planner, _ = planner_of(small("fedsllm", *WIDE, PLANNED_STEPS, "method.topology.cut=1"))
    first = planner.first_plan()
    counts = [np.bincount(planner.plan(index, first)[1].main.owner_M) for index in range(3)]
    assert len({tuple(count.tolist()) for count in counts}) > 1


def test_given_local_steps_are_kept_and_change_the_rounds_to_the_target():
    few, many = (planner_of(small("fedsllm", f"run.local_steps={n}", "method.topology.cut=1"))[0] for n in (2, 9))
    assert (few.local_steps, many.local_steps) == (2, 9)
    assert few.problem(0).rounds_to_target[8] > many.problem(0).rounds_to_target[8]


def test_plan_says_which_accuracy_was_chosen():
    out = wavetune("plan", "fedsllm", *settings("method.topology.cut=1", PLANNED_STEPS)).out
    assert "learning accuracy 0." in out
    assert "local steps a round" in out


def test_planners_that_cannot_choose_local_steps_say_so():
    with pytest.raises(ConfigError, match=r"run\.local_steps is 0.*optimal"):
        planner_of(small("sflllm", PLANNED_STEPS))


@pytest.mark.parametrize(
    ("setting", "missing"),
    [
        ("method.topology.kind=federated", "a cut through the model"),
        ("method.lora.rank=[1, 2, 4]", "one rank for all clients"),
        ("method.topology.cut=[1, 2, 3]", "one cut for all clients"),
    ],
)
def test_methods_without_one_split_for_all_are_refused(setting, missing):
    with pytest.raises(ConfigError, match=f"fedsllm needs {missing}"):
        planner_of(with_settings(small("fedsllm", "method.topology.cut=1"), [setting]))
